//! The mock server as a process: `cargo run --release --example mock_server -- --port 8080 --latency 100`.
//!
//! Prints its address, then how many requests arrived and were billed for every line that comes on standard input, and
//! ends when that does. It answers with a short text after `--latency` milliseconds; with `--text FILE --bytes 50000` it
//! first thinks aloud, in so many bytes of that file, from a place in it that the question decides.

#![expect(clippy::print_stdout, reason = "a program")]
#![expect(clippy::unwrap_used, reason = "a server that cannot listen should say why")]
#![expect(dead_code, reason = "tests use what the program does not")]

#[path = "mod.rs"]
mod mock;

use std::sync::OnceLock;
use std::time::Duration;

use mock::{Behaviour, Mock};

/// What the thinking is cut from, and how long it is; a rule is a plain function, so they are no argument of it.
static THINKING: OnceLock<(Vec<char>, usize)> = OnceLock::new();

fn answer(asked: &str) -> String {
    let answer = format!("The answer to this is \\boxed{{{}}}.", asked.len());
    let Some((text, length)) = THINKING.get() else { return answer };
    let places = (text.len() - length).max(1) as u64;
    let place =
        asked.bytes().fold(7_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let thought: String = text.iter().skip((place % places) as usize).take(*length).collect();
    format!("<think>\n{thought}\n</think>\n\n{answer}")
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<u64>().ok()
    };
    if let Some(place) = arguments.iter().position(|argument| argument == "--text") {
        let text: Vec<char> = std::fs::read_to_string(&arguments[place + 1]).unwrap().chars().collect();
        let length = number("--bytes").map_or(1000, |bytes| bytes as usize).min(text.len());
        THINKING.get_or_init(|| (text, length));
    }
    let latency = Duration::from_millis(number("--latency").unwrap_or(0));
    let port = u16::try_from(number("--port").unwrap_or(0)).unwrap_or(0);
    let mock = Mock::listen(Behaviour::of(answer).after(latency), port);
    println!("{}", mock.address());
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
        println!("{} arrived, {} billed", mock.ledger().arrived_in_all(), mock.calls());
    }
}
