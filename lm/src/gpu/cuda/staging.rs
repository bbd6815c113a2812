//! Copies between the CPU's memory and the GPU's, through pinned memory: only from there does the GPU copy by itself.

use std::slice;
use std::sync::Arc;

use cudarc::driver::result::{self, event};
use cudarc::driver::sys::{self, CUevent_flags};

use super::super::driver::{Address, GpuError, Landing};
use super::device::{Answer, Device};

/// Bytes of a part of the ring, and of what is downloaded at once.
const PART: usize = 4 << 20;
const PARTS: usize = 8;

/// Pinned memory.
#[derive(Debug)]
struct Pinned {
    device: Arc<Device>,
    start: *mut u8,
}

// SAFETY: the memory belongs to whoever holds this.
unsafe impl Send for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The GPU may still read it. Nothing can be done about a failure.
        if self.device.synchronise().is_ok() {
            // SAFETY: it was allocated so.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

impl Pinned {
    fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, GpuError> {
        device.enter()?;
        // SAFETY: nobody reads it before it is written.
        let start = unsafe { result::malloc_host(bytes, 0) }.to("pinning memory")?;
        Ok(Self { device: device.clone(), start: start.cast() })
    }
}

/// What goes to the GPU: a ring whose parts are filled in turn. A part is used again when all copies from it are done, so that
/// an upload waits only where more than the ring holds is under way.
#[derive(Debug)]
pub(super) struct Uploads {
    ring: Pinned,
    /// When the copies from each part are done.
    done: Vec<sys::CUevent>,
    part: usize,
    used: usize,
}

// SAFETY: events are handles of the driver, good on every thread.
unsafe impl Send for Uploads {}

impl Drop for Uploads {
    fn drop(&mut self) {
        let _ = self.ring.device.enter();
        for &event in &self.done {
            // SAFETY: the event was made by `new`.
            let _ = unsafe { event::destroy(event) };
        }
    }
}

impl Uploads {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, GpuError> {
        let ring = Pinned::new(device, PART * PARTS)?;
        let mut uploads = Self { ring, done: Vec::new(), part: 0, used: 0 };
        for _ in 0..PARTS {
            uploads.done.push(event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).to("an event")?);
        }
        Ok(uploads)
    }

    pub(super) fn copy(&mut self, bytes: &[u8], to: Address) -> Result<(), GpuError> {
        self.ring.device.enter()?;
        let mut to = to;
        for bytes in bytes.chunks(PART) {
            if self.used + bytes.len() > PART {
                self.turn()?;
            }
            let stream = self.ring.device.stream;
            // SAFETY: the bytes fit the part, of which the GPU reads none from `used` on; they stay until the copy is done.
            unsafe {
                let room = self.ring.start.add(self.part * PART + self.used);
                room.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                result::memcpy_htod_async(to, slice::from_raw_parts(room, bytes.len()), stream)
                    .to("an upload")?;
            }
            self.used += bytes.len().next_multiple_of(64);
            to += bytes.len() as u64;
        }
        Ok(())
    }

    /// Goes on with the next part, once the copies from it that were asked for a round ago are done.
    fn turn(&mut self) -> Result<(), GpuError> {
        // SAFETY: the events and the stream are open. One that was never recorded is done.
        unsafe { event::record(self.done[self.part], self.ring.device.stream) }.to("an upload")?;
        self.part = (self.part + 1) % PARTS;
        self.used = 0;
        // SAFETY: as above.
        unsafe { event::synchronize(self.done[self.part]) }.to("an upload")
    }
}

/// What the GPU brings by itself.
#[derive(Debug)]
pub(super) struct Fetched {
    landing: Pinned,
    room: usize,
    /// Bytes of what was fetched last, and when they are here.
    bytes: usize,
    done: sys::CUevent,
}

// SAFETY: the event is a handle of the driver, good on every thread.
unsafe impl Send for Fetched {}

impl Drop for Fetched {
    fn drop(&mut self) {
        let _ = self.landing.device.enter();
        // SAFETY: the event was made by `new`.
        let _ = unsafe { event::destroy(self.done) };
    }
}

impl Fetched {
    pub(super) fn new(device: &Arc<Device>, room: usize) -> Result<Self, GpuError> {
        let landing = Pinned::new(device, room.max(1))?;
        let done = event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).to("an event")?;
        Ok(Self { landing, room, bytes: 0, done })
    }
}

impl Landing for Fetched {
    fn fetch(&mut self, from: Address, bytes: usize) -> Result<(), GpuError> {
        assert!(bytes <= self.room, "{bytes} bytes to a landing of {}", self.room);
        let Pinned { device, start } = &self.landing;
        device.enter()?;
        self.bytes = bytes;
        // SAFETY: the bytes fit the pinned memory, which nobody reads before `wait` has seen the event; event and stream are open.
        unsafe {
            if bytes > 0 {
                let landing = slice::from_raw_parts_mut(*start, bytes);
                result::memcpy_dtoh_async(landing, from, device.stream).to("a download")?;
            }
            event::record(self.done, device.stream).to("a download")
        }
    }

    fn wait(&mut self) -> Result<&[u8], GpuError> {
        self.landing.device.enter()?;
        // SAFETY: the event is open; after it the GPU writes no more until the next `fetch`, which needs this borrow to have ended.
        unsafe {
            event::synchronize(self.done).to("what it was asked before")?;
            Ok(slice::from_raw_parts(self.landing.start, self.bytes))
        }
    }
}

/// What comes from the GPU.
#[derive(Debug)]
pub(super) struct Downloads(Pinned);

impl Downloads {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, GpuError> {
        Pinned::new(device, PART).map(Self)
    }

    pub(super) fn copy(&mut self, from: Address, to: &mut [u8]) -> Result<(), GpuError> {
        let Pinned { device, start } = &self.0;
        device.enter()?;
        let mut from = from;
        for to in to.chunks_mut(PART) {
            // SAFETY: the chunk fits the pinned memory, which only the GPU writes until it has been waited for.
            unsafe {
                let landing = slice::from_raw_parts_mut(*start, to.len());
                result::memcpy_dtoh_async(landing, from, device.stream).to("a download")?;
                device.synchronise()?;
                to.copy_from_slice(landing);
            }
            from += to.len() as u64;
        }
        Ok(())
    }
}
