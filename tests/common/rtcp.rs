//! RTCP of our own phone: answers every sender report with a receiver report after a known time (RFC 3550 §6.4.1).
//!
//! Invariant: independent of the code under test: packets are read and made here, byte by byte.

use super::own_ip;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
/// What the phone says it kept a report for, beside the way to it and back.
const HELD: Duration = Duration::from_millis(300);
/// Between 1900 and 1970.
const NTP_OFFSET: Duration = Duration::from_secs(2_208_988_800);

/// A sender report as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SenderReport {
    pub(crate) ssrc: u32,
    /// How far its clock was from ours.
    pub(crate) clock_off: Duration,
    pub(crate) packets: u32,
}

/// Who answers reports.
pub(crate) struct Reporter {
    pub(crate) port: u16,
    came: Arc<Mutex<Vec<SenderReport>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Of the phone whose stream has that SSRC, as far away as that.
    pub(crate) fn start(ssrc: u32, round_trip: Duration) -> Self {
        let socket = UdpSocket::bind((own_ip(), 0)).expect("a port for RTCP");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a positive time");
        let port = socket.local_addr().expect("bound").port();
        let (came, over) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (theirs, end) = (Arc::clone(&came), Arc::clone(&over));
        let thread = thread::spawn(move || run(&socket, (ssrc, round_trip), &theirs, &end));
        Self { port, came, over, thread: Some(thread) }
    }

    /// Every sender report that came.
    pub(crate) fn came(&self) -> Vec<SenderReport> {
        self.came.lock().expect("the thread does not panic").clone()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(
    socket: &UdpSocket,
    (ssrc, round_trip): (u32, Duration),
    came: &Mutex<Vec<SenderReport>>,
    over: &AtomicBool,
) {
    let mut buffer = [0_u8; 2_048];
    let mut owed = None;
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, source)) = socket.recv_from(&mut buffer)
            && let Some((report, middle)) = read(&buffer[..length])
        {
            owed = Some((Instant::now(), source, report.ssrc, middle));
            came.lock().expect("no panic").push(report);
        }
        let Some((at, source, far, middle)) = owed else { continue };
        if at.elapsed() >= HELD + round_trip {
            owed = None;
            // The time that passed besides is not the way's.
            let answer = receiver_report(ssrc, far, middle, at.elapsed() - round_trip);
            let _ = socket.send_to(&answer, source);
        }
    }
}

/// A sender report that begins a compound, and the middle of its NTP time.
fn read(packet: &[u8]) -> Option<(SenderReport, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
    if packet.first()? >> 6 != 2 || packet[1] != SENDER_REPORT {
        return None;
    }
    let (seconds, fraction) = (word(8)?, word(12)?);
    let fraction_us = (u64::from(fraction) * 1_000_000) >> 32;
    let theirs = Duration::from_secs(seconds.into()) + Duration::from_micros(fraction_us);
    let ours = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970") + NTP_OFFSET;
    let report =
        SenderReport { ssrc: word(4)?, clock_off: ours.abs_diff(theirs), packets: word(20)? };
    Some((report, seconds << 16 | fraction >> 16))
}

/// One block: nothing was lost, and what was kept for so long is that report.
fn receiver_report(own: u32, far: u32, last: u32, held: Duration) -> Vec<u8> {
    let delay = u32::try_from((held.as_micros() << 16) / 1_000_000).expect("a short time");
    let mut bytes = vec![0x81, RECEIVER_REPORT, 0, 7];
    for word in [own, far, 0, 0, 0, last, delay] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes
}
