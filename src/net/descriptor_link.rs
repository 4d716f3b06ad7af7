//! Frames with descriptors between processes of one host, over a unix stream socket (SCM_RIGHTS, unix(7)).
//!
//! Blocking, with deadlines: for threads of their own. A frame is its length and the number of its descriptors, which
//! travel with these eight bytes, then its body.
//!
//! Invariants: nothing above the limits is read; every descriptor that came is closed with its frame, or given out.

use core::mem::MaybeUninit;
use core::time::Duration;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Of one message: SCM_MAX_FD.
pub const MOST_DESCRIPTORS: usize = 253;
/// Bytes of a body.
const MOST_BYTES: usize = 4 * 1024 * 1024;
const HEADER_BYTES: usize = 8;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// One end of it.
#[derive(Debug)]
pub struct DescriptorLink(UnixStream);

impl DescriptorLink {
    /// To whoever listens there; nobody does when the process is gone, whatever is left in the folder.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        Self::new(UnixStream::connect(path)?, patience)
    }

    /// Of an accepted connection. Nothing is waited for longer than `patience`.
    pub fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(stream))
    }

    /// Whole, or an error: then nothing more may be sent.
    pub fn send(&mut self, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if body.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let lengths = [body.len(), descriptors.len()];
        let lengths = lengths.map(|length| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        let header = lengths.concat();
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(&header)], &mut control, SendFlags::NOSIGNAL)?;
        self.0.write_all(header.get(sent..).unwrap_or_default())?;
        self.0.write_all(body)
    }

    /// The next frame; an error when the other end is gone, silent, or sends what is none.
    pub fn receive(&mut self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let descriptors = descriptors_of(&mut control);
        self.0.read_exact(header.get_mut(received.bytes..).unwrap_or_default())?;
        let [l0, l1, l2, l3, d0, d1, d2, d3] = header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        // Fewer came than were sent: this process may hold no more.
        if u32::from_be_bytes([d0, d1, d2, d3]) as usize != descriptors.len() || length > MOST_BYTES
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((body, descriptors))
    }

    /// After it nothing that the other end sends is taken; what it sent before can still be received.
    pub fn shut(&self) {
        // Fails only when the other end is gone, which is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Those that came with a message.
pub(super) fn descriptors_of(control: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair() -> (DescriptorLink, DescriptorLink) {
        let (one, other) = UnixStream::pair().expect("a pair");
        let patience = Duration::from_secs(5);
        let link = |stream| DescriptorLink::new(stream, patience).expect("timeouts");
        (link(one), link(other))
    }

    #[test]
    fn sockets_arrive_with_their_frame_and_what_waits_in_them_too() {
        let (mut one, mut other) = pair();
        let sockets: Vec<UdpSocket> =
            (0..4).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
        let address = sockets[3].local_addr().expect("bound");
        UdpSocket::bind("127.0.0.1:0").expect("a port").send_to(b"late", address).expect("sent");
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let body = vec![7; 100_000];
        let sender = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                one.send(b"first", &[]).expect("sent");
                one.send(&body, &fds).expect("sent");
            });
            assert_eq!(other.receive().expect("a frame").0, b"first");
            let (received, mut descriptors) = other.receive().expect("a frame");
            assert_eq!((received, descriptors.len()), (body.clone(), 4));
            sending.join().map(|()| descriptors.pop()).expect("no panic")
        });
        drop(sockets);
        let heir = UdpSocket::from(sender.expect("the last one"));
        let mut buffer = [0; 16];
        assert_eq!(heir.recv(&mut buffer).expect("it waited"), 4);
        assert_eq!(heir.local_addr().expect("bound"), address);
    }

    #[test]
    fn after_shut_nothing_is_taken_and_what_was_sent_before_is_there() {
        let (mut one, mut other) = pair();
        other.send(b"taken", &[]).expect("sent");
        one.shut();
        assert!(other.send(b"too late", &[]).is_err());
        assert_eq!(one.receive().expect("sent before").0, b"taken");
        assert!(one.receive().is_err());
    }
}
