//! Frames with descriptors between signaling processes of one host, over a unix socket that keeps the bounds of what is
//! sent (SOCK_SEQPACKET, SCM_RIGHTS: unix(7)).
//!
//! Invariants: nothing above the limits is sent or read; every descriptor that came is given out or closed; the end of
//! the other process, however it ends, is the end of the link.

use super::descriptor_link::descriptors_of;
use core::mem::MaybeUninit;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

/// Of one frame.
pub const MOST_DESCRIPTORS: usize = 64;
/// Of a frame's body.
const MOST_BYTES: usize = 32 * 1024;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));
/// Links that wait to be accepted.
const BACKLOG: i32 = 64;

/// One end of a link. Lives on the thread that made it.
#[derive(Debug)]
pub struct SiblingLink(UnixStream);

/// Where siblings dial.
#[derive(Debug)]
pub struct SiblingListener(UnixListener);

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

impl SiblingListener {
    /// In place of whatever a dead process left there. It has that name when it listens: one that does not yet would be
    /// taken for a dead process's, and removed.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let unready = path.with_extension("new");
        // There is none, or the bind says what is wrong.
        let _ = std::fs::remove_file(&unready);
        let socket = socket()?;
        bind(&socket, &SocketAddrUnix::new(&unready)?)?;
        listen(&socket, BACKLOG)?;
        std::fs::rename(&unready, path)?;
        Ok(Self(UnixListener::from_std(socket.into())?))
    }

    /// The next sibling.
    pub async fn accept(&self) -> io::Result<SiblingLink> {
        Ok(SiblingLink(self.0.accept().await?.0))
    }
}

impl SiblingLink {
    /// To whoever listens there. Refused: nobody does, whatever is left in the folder.
    pub fn dial(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// Sends a frame whole, once there is room for it.
    pub async fn send(&self, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if body.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let send = || {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            sendmsg(&self.0, &[IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next frame with its descriptors, fewer than were sent when this process may hold no more. `None`: the other
    /// end is gone. Cancelling loses nothing.
    pub async fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }

    /// A frame that is there already.
    pub fn try_receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        receive(&self.0)
    }
}

fn receive(socket: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut body = vec![0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut body)];
    let received = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = descriptors_of(&mut control);
    body.truncate(received.bytes);
    Ok((received.bytes > 0).then_some((body, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn frames_keep_their_bounds_and_bring_their_descriptors() {
        let path = std::env::temp_dir().join(format!("holdfast-sibling-{}", std::process::id()));
        let listener = SiblingListener::bind(&path).expect("a listener");
        let one = SiblingLink::dial(&path).expect("somebody listens");
        let other = listener.accept().await.expect("a sibling");
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let descriptors = sockets.each_ref().map(AsFd::as_fd);
        one.send(b"first", &[]).await.expect("sent");
        one.send(b"second", &descriptors).await.expect("sent");
        let frame = other.receive().await.expect("alive").expect("a frame");
        assert_eq!((&frame.0[..], frame.1.len()), (&b"first"[..], 0));
        let (body, mut descriptors) = other.receive().await.expect("alive").expect("a frame");
        assert_eq!((&body[..], descriptors.len()), (&b"second"[..], 3));
        let shared = UdpSocket::from(descriptors.remove(1));
        assert_eq!(shared.local_addr().expect("bound"), sockets[1].local_addr().expect("bound"));
        drop(one);
        assert!(other.receive().await.expect("an end").is_none());
        drop(listener);
        let error = SiblingLink::dial(&path).expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let _ = std::fs::remove_file(&path);
    }
}
