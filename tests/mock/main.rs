//! The mock server as a process: `cargo run --release --example mock_server -- --port 8080 --latency 100`.
//!
//! Prints its address, then how many requests arrived and were billed for every line that comes on standard input, and
//! ends when that does. It answers with a short text after `--latency` milliseconds.

#![expect(clippy::print_stdout, reason = "a program")]
#![expect(clippy::unwrap_used, reason = "a server that cannot listen should say why")]
#![expect(dead_code, reason = "tests use what the program does not")]

#[path = "mod.rs"]
mod mock;

use std::time::Duration;

use mock::{Behaviour, Mock};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<u64>().ok()
    };
    let rule = |asked: &str| format!("The answer to this is \\boxed{{{}}}.", asked.len());
    let latency = Duration::from_millis(number("--latency").unwrap_or(0));
    let port = u16::try_from(number("--port").unwrap_or(0)).unwrap_or(0);
    let mock = Mock::listen(Behaviour::of(rule).after(latency), port);
    println!("{}", mock.address());
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
        println!("{} arrived, {} billed", mock.ledger().arrived_in_all(), mock.calls());
    }
}
