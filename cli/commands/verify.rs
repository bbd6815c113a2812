//! `dag verify`: hash everything in the store again, and with `--rebuild` make the indexes anew.

use dag_cache::verify::{Report, verify};

use crate::args::Verify;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::{bytes, count};

pub fn run(arguments: &Verify, context: &Context) -> Outcome {
    let report = verify(&context.store, arguments.rebuild)?;
    if context.json {
        context.printer.json(&report)?;
    } else {
        context.printer.data(&describe(&report))?;
        if !report.left_overs.is_empty() {
            let left = count(report.left_overs.len() as u64, "left-over");
            let hint = format!("{left} of killed processes, which stop nobody; `dag gc --yes` removes them");
            context.printer.note(&Text::new().accent("hint: ").plain(hint).line());
        }
    }
    // What was put aside is a miss from now on, so a repaired store is a sound one.
    if report.faults.is_empty() || arguments.rebuild {
        return Ok(());
    }
    let failure = Failure::failed(format!("{} in the store", count(report.faults.len() as u64, "fault")));
    Err(failure.hint("`dag verify --rebuild` puts what is damaged aside; the next run makes it again"))
}

fn describe(report: &Report) -> Text {
    let mut text = Text::new();
    for fault in &report.faults {
        text = text.bad("fault: ").plain(format!("`{}`: {}", fault.path.display(), fault.what)).line();
    }
    for repair in &report.repaired {
        text = text.good("repaired: ").plain(format!("`{}`: {}", repair.path.display(), repair.what)).line();
    }
    text.plain(format!(
        "{} ({}), {}, {} with {}; {}",
        count(report.blobs, "blob"),
        bytes(report.bytes),
        count(report.records, "record"),
        count(report.segments, "log segment"),
        count(report.entries, "logged record"),
        if report.faults.is_empty() {
            "all sound".to_owned()
        } else {
            count(report.faults.len() as u64, "fault")
        }
    ))
    .line()
}
