//! The worker: carries out one part of an order, tells how it goes, and leaves its exit last.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use dag_cache::Writer;
use dag_engine::Registry;
use dag_engine::call::Delivery;
use dag_engine::context::{Cancel, EnvLookup, Progress, Shard};
use dag_engine::event::{Counts, News};
use dag_engine::order::{Order, Worker};
use dag_engine::run::Meter;
use dag_engine::task::TaskError;

use crate::folder::{End, Exit, Generation, NewsWriter, Part, nonce};

/// How often a worker writes what is new, and looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(500);

/// What a worker is started with.
pub struct Duty {
    /// The folder of the generation.
    pub folder: PathBuf,
    /// The number of its submission.
    pub submission: u32,
    /// Its part.
    pub part: Part,
    /// After so long it stops by itself, so that what it has done is kept in order.
    pub time: Option<Duration>,
    /// What the scheduler calls this attempt; need not be unique.
    pub attempt: String,
    /// The machine.
    pub host: String,
    /// The environment.
    pub env: EnvLookup,
    /// The ids of the GPUs that are its own.
    pub gpus: Vec<u32>,
    /// Raised by signals that ask it to stop.
    pub cancel: Cancel,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its part is done.
    Done,
    /// Another attempt goes on.
    Stopped,
    /// It failed; why.
    Failed(String),
}

/// Does the duty. An error is one of the folder itself, which could not be read or written.
pub fn work(duty: Duty, registry: &Registry, writer: Arc<Writer>) -> std::io::Result<Ended> {
    let began = Instant::now();
    let generation = Generation::at(&duty.folder)?;
    let order = fs::read(generation.order_file(duty.submission))?;
    let order = Order::read(&order).map_err(std::io::Error::other)?;
    let attempt = format!("{}-{}-{}", duty.submission, duty.attempt, nonce()?);
    let part = duty.part;
    let mut news = NewsWriter::create(&generation.news_file(part, &attempt))?;
    news.append(&News { message: Some(format!("began on {}", duty.host)), ..News::default() })?;
    let folder = generation.path.join(format!("work/{part}.{attempt}"));
    fs::create_dir_all(&folder)?;
    let shard = match part {
        Part::Shard(index) => Some(Shard { index, count: generation.shards }),
        Part::Whole => None,
    };
    let meter = Arc::new(Meter::default());
    let (host, time) = (duty.host.clone(), duty.time);
    let told = Arc::clone(&meter);
    let worker = Worker {
        registry,
        writer,
        folder: folder.clone(),
        env: duty.env,
        gpus: duty.gpus,
        progress: Progress::to(move |note| told.note(note)),
        cancel: duty.cancel.clone(),
    };
    let out_of_time = AtomicBool::new(false);
    let (over, ended) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let (meter, generation, attempt, news, cancel) =
            (&*meter, &generation, &*attempt, &mut news, duty.cancel.clone());
        let out_of_time = &out_of_time;
        scope.spawn(move || {
            loop {
                let is_over = !matches!(ended.recv_timeout(LOOK), Err(mpsc::RecvTimeoutError::Timeout));
                if let Some(fresh) = meter.news() {
                    // Telemetry: a full disk must not stop what can still be done.
                    let _ = news.append(&share_of(fresh, shard));
                }
                if is_over {
                    return;
                }
                if time.is_some_and(|time| began.elapsed() >= time) {
                    out_of_time.store(true, Ordering::Relaxed);
                    cancel.cancel();
                }
                if !generation.wants(part, attempt) {
                    cancel.cancel();
                }
            }
        });
        let result = catch_unwind(AssertUnwindSafe(|| order.perform(shard, worker)));
        drop(over);
        result
    });
    // Closed, so that whoever sees the exit can read all of them on a shared file system too.
    drop(news);
    let _ = fs::remove_dir_all(&folder);
    let (end, error, delivery) = read_result(result, out_of_time.load(Ordering::Relaxed));
    let counts = meter.counts();
    let counts = share_of(News { counts, ..News::default() }, shard).counts;
    let exit =
        Exit { end, error: error.clone(), delivery, counts, host, seconds: began.elapsed().as_secs_f64() };
    generation.leave(part, &attempt, &exit)?;
    Ok(match end {
        End::Done => Ended::Done,
        End::Stopped => Ended::Stopped,
        _ => Ended::Failed(error),
    })
}

/// A task tells the total of the whole node; a shard's is its share of that.
fn share_of(mut news: News, shard: Option<Shard>) -> News {
    if let (Some(shard), Counts { total: Some(total), .. }) = (shard, &mut news.counts) {
        let (count, index) = (u64::from(shard.count), u64::from(shard.index));
        *total = *total / count + u64::from(index < *total % count);
    }
    news
}

fn read_result(
    result: std::thread::Result<Result<Delivery, TaskError>>,
    out_of_time: bool,
) -> (End, String, Option<Delivery>) {
    let error = match result {
        Ok(Ok(delivery)) => return (End::Done, String::new(), Some(delivery)),
        Ok(Err(error)) => error,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            return (End::Failed, format!("panicked: {text}"), None);
        }
    };
    let end = match &error {
        TaskError::Cancelled => End::Stopped,
        TaskError::Transient(_) => End::Transient,
        TaskError::InputLost(_) => End::InputLost,
        TaskError::Unserved(_) => End::Unserved,
        TaskError::Paused(_) => End::Paused,
        _ => End::Failed,
    };
    let text = match error {
        TaskError::Cancelled if out_of_time => "its time was nearly up".to_owned(),
        TaskError::Cancelled => "it was asked to stop".to_owned(),
        TaskError::Missing { what, help } => format!("{what} ({help})"),
        TaskError::Unserved(service) => service,
        error => error.to_string(),
    };
    (end, text, None)
}
