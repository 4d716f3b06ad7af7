//! The inheriting side: a thread that accepts processes that leave, one after the other.

use super::super::worker::{Adopted, Command, Handle};
use super::super::{Shared, worker_of};
use super::{PATIENCE, Parcel, Room, Word};
use crate::ids::NodeName;
use crate::net::descriptor_link::DescriptorLink;
use crate::net::rtp_socket::RtpSocket;
use crate::relay::{SNAPSHOT_VERSION, Session};
use core::sync::atomic::Ordering;
use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Listens at `path` for as long as the process lives. What an earlier holder of the path left there is taken away.
pub(in super::super) fn listen(
    path: &Path,
    name: NodeName,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let heir = Listener { name, shared, workers };
    std::thread::Builder::new().name("media-heir".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            let served = stream
                .and_then(|stream| DescriptorLink::new(stream, PATIENCE))
                .and_then(|link| heir.serve(link));
            if let Err(error) = served {
                tracing::debug!("a hand-over to us broke off: {error}");
            }
        }
    })?;
    Ok(())
}

struct Listener {
    name: NodeName,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
}

impl Listener {
    /// Tells the room, then takes what comes until the other end is done.
    fn serve(&self, mut link: DescriptorLink) -> io::Result<()> {
        link.send(&Word::Room(self.room()).encode(), &[])?;
        let mut taken = 0_u32;
        loop {
            let (body, descriptors) = match link.receive() {
                Ok(frame) => frame,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            };
            let Word::Session(parcel) = Word::decode(&body)? else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            taken += u32::from(self.take(&mut link, parcel, descriptors)?);
        }
        if taken > 0 {
            tracing::info!("{taken} sessions of another process are ours now");
        }
        Ok(())
    }

    fn room(&self) -> Room {
        let shared = &self.shared;
        let sessions = shared.sessions.load(Ordering::Relaxed);
        Room {
            name: self.name.clone(),
            snapshot_version: SNAPSHOT_VERSION,
            draining: shared.is_draining(),
            sessions: shared.most_sessions().saturating_sub(sessions),
        }
    }

    /// True: it is ours. Above our capacity too: a call that is a little crowded is better than none.
    fn take(
        &self,
        link: &mut DescriptorLink,
        parcel: Parcel,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<bool> {
        let id = parcel.id;
        let adopted = unpacked(parcel, descriptors).filter(|_| self.shared.let_in());
        let Some(adopted) = adopted else {
            link.send(&Word::Refused(id).encode(), &[])?;
            return Ok(false);
        };
        // The commit. Where it cannot be said, nobody was told that we have it, and the sockets are closed here.
        link.send(&Word::Taken(id).encode(), &[]).inspect_err(|_| self.shared.count_out())?;
        let (done, is_read) = sync_channel(1);
        let worker = self.workers.get(worker_of(id, self.workers.len()));
        let adopt = Command::Adopt(Box::new(adopted), done);
        if worker.is_some_and(|worker| worker.deliver(adopt)) {
            // A worker that stands still reads it when it goes on.
            let _ = is_read.recv_timeout(PATIENCE);
        } else {
            self.shared.count_out();
        }
        Ok(true)
    }
}

/// `None`: a state that this release does not read, or sockets that are not what they are said to be.
fn unpacked(parcel: Parcel, descriptors: Vec<OwnedFd>) -> Option<Adopted> {
    if parcel.sockets.len() != descriptors.len() {
        return None;
    }
    let session = Session::restored(&parcel.state)?;
    let sockets = descriptors.into_iter().map(RtpSocket::from);
    let sockets = parcel.sockets.iter().copied().zip(sockets).collect();
    let Parcel { id, created_at, clock, pairs, .. } = parcel;
    Some(Adopted { id, session, created_at, clock, pairs, sockets })
}
