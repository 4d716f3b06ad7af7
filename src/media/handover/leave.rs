//! The leaving side: whom, and one session after the other.

use super::super::worker::{Command, Handle};
use super::super::{Shared, worker_of};
use super::{Heir, PATIENCE, Parcel, Room, Word};
use crate::control::Frame;
use crate::ids::{NodeName, SessionId};
use crate::net::clock;
use crate::net::descriptor_link::DescriptorLink;
use crate::relay::{SNAPSHOT_VERSION, snapshot_is_read};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Passes all sessions of the workers to the freest other process whose socket is in `own`'s folder: how many, and to
/// whom; `None` when nobody is there. When all are to leave, as in a restart of the whole host, one of them gathers
/// what the others have, so that these may go. Blocks.
pub(in super::super) fn hand_over(
    own: &Path,
    shared: &Shared,
    workers: &[Handle],
) -> Option<(usize, NodeName)> {
    let (mut link, heir) = freest(own)?;
    let heir = Arc::new(heir);
    let mut passed = 0;
    for worker in workers {
        for id in sessions_of(worker) {
            match pass_and_tell(shared, &mut link, worker, &heir, id) {
                Ok(taken) => passed += usize::from(taken),
                Err(error) => {
                    tracing::warn!("the hand-over to {} broke off: {error}", heir.name);
                    return Some((passed, heir.name.clone()));
                }
            }
        }
    }
    Some((passed, heir.name.clone()))
}

/// Passes one session to that process: false when it ended meanwhile, or is not wanted. Blocks.
pub(in super::super) fn give(
    own: &Path,
    shared: &Shared,
    workers: &[Handle],
    id: SessionId,
    to: &NodeName,
) -> io::Result<bool> {
    let known =
        sockets_beside(own).into_iter().filter_map(|path| Some((ask_room(&path).ok()?, path)));
    let mut named = known.filter(|((_, room), _)| room.name == *to);
    let nobody = || io::Error::other("no process of that name is on this host");
    let ((mut link, room), path) = named.next().ok_or_else(nobody)?;
    if !snapshot_is_read(SNAPSHOT_VERSION, room.snapshot_version) {
        return Err(io::Error::other("that process is of a release that does not read it"));
    }
    let Some(worker) = workers.get(worker_of(id, workers.len())) else { return Ok(false) };
    pass_and_tell(shared, &mut link, worker, &Arc::new(Heir { name: room.name, path }), id)
}

fn pass_and_tell(
    shared: &Shared,
    link: &mut DescriptorLink,
    worker: &Handle,
    heir: &Arc<Heir>,
    id: SessionId,
) -> io::Result<bool> {
    let at = clock::now();
    let is_taken = matches!(pass(link, worker, heir, id)?, Passed::Taken);
    if is_taken {
        // It may not live to say so itself.
        shared.broadcast(&Frame::Passed { session: id, to: heir.name.clone(), at });
    }
    Ok(is_taken)
}

/// What became of a session.
enum Passed {
    Taken,
    /// It ended meanwhile, or the heir did not want it.
    Kept,
}

fn freest(own: &Path) -> Option<(DescriptorLink, Heir)> {
    let others = sockets_beside(own);
    let known = others.iter().filter_map(|path| Some((path, ask_room(path).ok()?)));
    let able =
        known.filter(|(_, (_, room))| snapshot_is_read(SNAPSHOT_VERSION, room.snapshot_version));
    let (stay, leave): (Vec<_>, Vec<_>) = able.partition(|(_, (_, room))| !room.draining);
    let freest = stay.into_iter().max_by_key(|(_, (_, room))| room.sessions);
    // The first of all by its path, for whom no other is before.
    let gatherer = leave.into_iter().map(|(path, found)| (path.as_path(), found));
    let gatherer = gatherer.min_by_key(|(path, _)| *path).filter(|(path, _)| *path < own);
    let freest = freest.map(|(path, found)| (path.as_path(), found));
    let (path, (link, room)) = freest.or(gatherer)?;
    Some((link, Heir { name: room.name, path: path.to_owned() }))
}

fn sockets_beside(own: &Path) -> Vec<PathBuf> {
    let Some(Ok(entries)) = own.parent().map(std::fs::read_dir) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path != own && path.extension() == own.extension()).collect()
}

fn ask_room(path: &Path) -> io::Result<(DescriptorLink, Room)> {
    let mut link = DescriptorLink::connect(path, PATIENCE)?;
    match Word::decode(&link.receive()?.0)? {
        Word::Room(room) => Ok((link, room)),
        Word::Session(_) | Word::Taken(_) | Word::Refused(_) => {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

fn sessions_of(worker: &Handle) -> Vec<SessionId> {
    let (answer, ids) = sync_channel(1);
    worker.deliver(Command::List(answer));
    ids.recv_timeout(PATIENCE).unwrap_or_default()
}

/// From "stop reading" to "forget", or back.
fn pass(
    link: &mut DescriptorLink,
    worker: &Handle,
    heir: &Arc<Heir>,
    id: SessionId,
) -> io::Result<Passed> {
    let (answer, parcel) = sync_channel(1);
    worker.deliver(Command::Export(id, answer));
    let parcel = match parcel.recv_timeout(PATIENCE) {
        Ok(Some(parcel)) => parcel,
        Ok(None) => return Ok(Passed::Kept),
        Err(_) => {
            // A worker that stood still may export it yet, for nobody.
            worker.deliver(Command::Resume(id));
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    let word = deliver(link, id, parcel).or_else(|error| {
        // From here on the heir cannot say that it has it; it may have said so already.
        link.shut();
        verdict(link, id).map_err(|_| error)
    });
    match word {
        Ok(true) => worker.deliver(Command::Forget(id, Arc::clone(heir))),
        Ok(false) | Err(_) => worker.deliver(Command::Resume(id)),
    };
    word.map(|taken| if taken { Passed::Taken } else { Passed::Kept })
}

fn deliver(
    link: &mut DescriptorLink,
    id: SessionId,
    (parcel, sockets): (Parcel, Vec<OwnedFd>),
) -> io::Result<bool> {
    let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    link.send(&Word::Session(parcel).encode(), &descriptors)?;
    verdict(link, id)
}

/// The heir's word.
fn verdict(link: &mut DescriptorLink, id: SessionId) -> io::Result<bool> {
    match Word::decode(&link.receive()?.0)? {
        Word::Taken(taken) if taken == id => Ok(true),
        Word::Refused(refused) if refused == id => Ok(false),
        Word::Room(_) | Word::Session(_) | Word::Taken(_) | Word::Refused(_) => {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
