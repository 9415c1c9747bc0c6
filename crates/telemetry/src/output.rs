//! Standard output, written by a thread of its own.
//!
//! A line is handed over without waiting. When [`CAPACITY`] lines are waiting, because nobody reads standard output or
//! the disk behind it is full, further ones are dropped and counted, and the next line that gets through is followed
//! by one that says how many are missing. A line is never split and never mixed with another.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that may wait: what a busy process writes in about half a second.
const CAPACITY: usize = 4096;

/// Bytes of one line; what is longer is cut, so that what waits is bounded in bytes, too (64 MiB at worst). The values
/// of a line have bounds of their own that keep it far below this.
const MAX_LINE: usize = 16 * 1024;

/// The writing thread's rest between two rounds. While it rests nobody needs to wake it, which costs the caller more
/// than the line itself; a line waits that much longer, and a busy process writes some hundred lines at once.
const REST: Duration = Duration::from_millis(10);

/// Bytes that go out in one write: what a busy process writes while the thread rests.
const BUFFER: usize = 64 * 1024;

/// What became of the lines so far.
#[derive(Debug, Default)]
pub struct OutputStats {
    dropped: AtomicU64,
    failed: AtomicU64,
    broken: AtomicBool,
}

impl OutputStats {
    /// Lines that were dropped because too many were waiting.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes that failed, for instance because standard output is closed; what they held is lost.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

enum Message {
    Line(String),
    /// Everything before it is to be written; then the answer is due.
    Flush(SyncSender<()>),
}

/// A sink of lines. Cheap to clone.
#[derive(Clone)]
pub struct Output {
    sender: SyncSender<Message>,
    stats: Arc<OutputStats>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Starts the thread that writes to `writer`; it ends when the last clone is dropped. `missing` makes the line
    /// (without its end) that says how many were dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        writer: impl Write + Send + 'static,
        missing: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(CAPACITY);
        let stats = Arc::new(OutputStats::default());
        let thread_stats = Arc::clone(&stats);
        std::thread::Builder::new()
            .name("tdc-log".into())
            .spawn(move || {
                let writer = BufWriter::with_capacity(BUFFER, writer);
                run(&receiver, writer, &thread_stats, &missing);
            })?;
        Ok(Self { sender, stats })
    }

    /// Hands a line over, without its end; never waits.
    pub fn line(&self, mut line: String) {
        if line.len() > MAX_LINE {
            line.truncate(line.floor_char_boundary(MAX_LINE));
        }
        line.push('\n');
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was handed over before is written, at most `limit`; says whether it was. Blocks the thread.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    message = back;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err(_) => return false,
            }
        }
        wait.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
    }

    /// For `tracing`'s formatter.
    pub(crate) fn lines(&self) -> impl Fn() -> Line + use<> {
        let output = self.clone();
        move || Line {
            output: output.clone(),
            bytes: Vec::new(),
        }
    }

    /// What became of the lines so far.
    pub fn stats(&self) -> Arc<OutputStats> {
        Arc::clone(&self.stats)
    }
}

fn run(
    receiver: &Receiver<Message>,
    mut writer: BufWriter<impl Write>,
    stats: &OutputStats,
    missing: &impl Fn(u64) -> String,
) {
    let mut told = 0;
    while let Ok(message) = receiver.recv() {
        let mut next = Ok(message);
        // Whatever is waiting goes out with one flush.
        let mut flushed = Vec::new();
        while let Ok(message) = next {
            match message {
                Message::Line(line) => {
                    write(&mut writer, line.as_bytes(), stats);
                    let dropped = stats.dropped();
                    if dropped > told {
                        let note = missing(dropped - told) + "\n";
                        told = dropped;
                        write(&mut writer, note.as_bytes(), stats);
                    }
                }
                Message::Flush(done) => flushed.push(done),
            }
            next = receiver.try_recv();
        }
        if let Err(error) = writer.flush() {
            broken(&error, stats);
        }
        for done in flushed {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        if matches!(next, Err(TryRecvError::Disconnected)) {
            return;
        }
        std::thread::park_timeout(REST);
    }
}

fn write(writer: &mut impl Write, line: &[u8], stats: &OutputStats) {
    if let Err(error) = writer.write_all(line) {
        stats.failed.fetch_add(1, Ordering::Relaxed);
        broken(&error, stats);
    }
}

/// Says once, on standard error, that the log cannot be written.
fn broken(error: &io::Error, stats: &OutputStats) {
    if !stats.broken.swap(true, Ordering::Relaxed) {
        // There is no other place left to say it.
        let _ = writeln!(io::stderr(), "tdc: the log cannot be written: {error}");
    }
}

/// One line of `tracing`'s formatter, handed over when it is complete.
pub(crate) struct Line {
    output: Output,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end_matches('\n');
        if !text.is_empty() {
            self.output.line(text.to_owned());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{CAPACITY, MAX_LINE, Output};
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes nothing before it may.
    struct Gated(Receiver<()>, Captured);

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Closed: open for good.
            let _ = self.0.recv();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let captured = Captured::default();
        let output = Output::start(captured.clone(), |n| n.to_string()).unwrap();
        for n in 0..1000 {
            output.line(format!("line {n}"));
        }
        assert!(output.flush(LIMIT));
        let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        assert_eq!(captured.text(), expected);
        assert_eq!((output.stats().dropped(), output.stats().failed()), (0, 0));
    }

    #[test]
    fn a_reader_that_sleeps_costs_lines_which_are_counted_and_told() {
        let (open, gate) = sync_channel(0);
        let captured = Captured::default();
        let output = Output::start(Gated(gate, captured.clone()), |n| format!("missing {n}")).unwrap();
        let sent = CAPACITY + 10_000;
        for n in 0..sent {
            output.line(format!("{n}"));
        }
        let dropped = output.stats().dropped();
        assert!(dropped > 0, "no caller waits");
        assert!(
            !output.flush(Duration::from_millis(20)),
            "a flush waits no longer than it may"
        );
        drop(open);
        assert!(output.flush(LIMIT));
        let text = captured.text();
        let (notes, lines): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("missing "));
        assert_eq!(
            lines.len() as u64 + dropped,
            sent as u64,
            "every line is written or counted"
        );
        let told: u64 = notes
            .iter()
            .map(|note| note["missing ".len()..].parse::<u64>().unwrap())
            .sum();
        assert_eq!(told, dropped);
    }

    #[test]
    fn a_closed_output_is_counted_and_stops_nobody() {
        let output = Output::start(Closed, |n| n.to_string()).unwrap();
        for _ in 0..100 {
            output.line("x".repeat(MAX_LINE));
        }
        assert!(output.flush(LIMIT));
        assert!(output.stats().failed() > 0);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let captured = Captured::default();
        let output = Output::start(captured.clone(), |n| n.to_string()).unwrap();
        output.line("é".repeat(MAX_LINE) + "end");
        output.line(format!("x{}", "é".repeat(MAX_LINE)));
        assert!(output.flush(LIMIT));
        let lengths: Vec<_> = captured.text().lines().map(str::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE - 1]);
    }
}
