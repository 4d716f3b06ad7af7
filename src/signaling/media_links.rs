//! Where media nodes announce themselves: the control listener, and a task a link (design §6).
//!
//! Invariants: links that are being made are bounded; a link's frames reach the worker in order, and a worker that is
//! behind slows the link, not the reverse.

use super::media_pool::LinkNumber;
use super::wakeup::Wakeup;
use crate::control::hello::{Hello, Role};
use crate::net::control_link::{self, ControlLink, Secrets};
use core::time::Duration;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

/// Links being made or up.
const LINKS: usize = 256;
/// Accepts links for as long as the worker lives.
pub(super) async fn accept(
    listener: TcpListener,
    hello: Hello,
    secrets: Secrets,
    wakeups: mpsc::Sender<Wakeup>,
) {
    let room = Arc::new(Semaphore::new(LINKS));
    let mut number: LinkNumber = 0;
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors or the like: what holds them may end.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        number += 1;
        let (hello, secrets, wakeups) = (hello.clone(), secrets.clone(), wakeups.clone());
        tokio::spawn(async move {
            let _permit = permit;
            serve(number, stream, hello, &secrets, &wakeups).await;
        });
    }
}

async fn serve(
    number: LinkNumber,
    stream: TcpStream,
    hello: Hello,
    secrets: &Secrets,
    wakeups: &mpsc::Sender<Wakeup>,
) {
    let ControlLink { peer, remote, sender, mut receiver, rtt_us } =
        match control_link::accept(stream, hello, secrets).await {
            Ok(link) if link.peer.role == Role::Media => link,
            Ok(link) => {
                tracing::debug!(peer = %link.peer.name, "a control link that is no media node's");
                return;
            }
            Err(error) => {
                tracing::warn!("a control link was refused: {error}");
                return;
            }
        };
    tracing::info!(media_node = %peer.name, %remote, "media node {} has announced itself", peer.name);
    let up = Wakeup::LinkUp { number, hello: peer, sender, rtt_us };
    if wakeups.send(up).await.is_err() {
        return;
    }
    while let Some(frame) = receiver.recv().await {
        if wakeups.send(Wakeup::Frame(number, Box::new(frame))).await.is_err() {
            return;
        }
    }
    // The worker may be gone already.
    let _ = wakeups.send(Wakeup::LinkDown(number)).await;
}
