//! What the kernel says of itself in `/proc` and `/sys`.
//!
//! Invariant: a file that cannot be read is `None`, never a nought.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A root below which `proc` and `sys` are.
#[derive(Clone, Debug)]
pub(super) struct System {
    root: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// Port.
    pub port: u16,
    /// Process id and name, when this user may see them.
    pub process: Option<(u32, String)>,
}

impl Owner {
    /// For a sentence.
    pub(super) fn name(&self) -> String {
        match &self.process {
            Some((pid, name)) => format!("{name} (pid {pid})"),
            None => "a process of another user or container".to_owned(),
        }
    }
}

impl System {
    /// With another root: a machine that is described by files.
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Text of a file, without the last line's end.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// The first number in a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.split_whitespace().next()?.parse().ok()
    }

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Names in a folder.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// A counter of `/proc/net/snmp`, since the machine started.
    pub(super) fn counter(&self, protocol: &str, name: &str) -> Option<u64> {
        let text = self.read("proc/net/snmp")?;
        let mut lines =
            text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
        let (names, values) = (lines.next()?, lines.next()?);
        let index = names.split_whitespace().position(|one| one == name)?;
        values.split_whitespace().nth(index)?.parse().ok()
    }

    /// A line `name value` of a file.
    pub(super) fn named(&self, path: &str, name: &str) -> Option<u64> {
        let text = self.read(path)?;
        let mut lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
    }

    /// Ports on which something of this network namespace listens.
    pub(super) fn owners(&self) -> Vec<Owner> {
        let mut processes: Option<HashMap<u64, (u32, String)>> = None;
        let mut owners = Vec::new();
        for (protocol, file) in [("udp", "udp"), ("udp", "udp6"), ("tcp", "tcp"), ("tcp", "tcp6")] {
            let Some(table) = self.read(&format!("proc/net/{file}")) else { continue };
            for (port, inode) in table.lines().filter_map(|line| listener(protocol, line)) {
                let processes = processes.get_or_insert_with(|| self.sockets());
                let process = processes.get(&inode).cloned();
                owners.push(Owner { protocol, port, process });
            }
        }
        owners
    }

    /// Inode of every socket that a visible process has open.
    fn sockets(&self) -> HashMap<u64, (u32, String)> {
        let mut sockets = HashMap::new();
        let names = self.names("proc");
        let mut pids: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            let folder = self.root.join(format!("proc/{pid}/fd"));
            let Ok(descriptors) = std::fs::read_dir(folder) else { continue };
            let name = self.read(&format!("proc/{pid}/comm")).unwrap_or_default();
            let links = descriptors.flatten().filter_map(|one| std::fs::read_link(one.path()).ok());
            for link in links {
                let inode = link.to_str().and_then(|text| text.strip_prefix("socket:["));
                let inode = inode.and_then(|text| text.trim_end_matches(']').parse().ok());
                // The first, as a child that is about to run another program has its parent's too.
                if let Some(inode) = inode {
                    sockets.entry(inode).or_insert_with(|| (pid, name.clone()));
                }
            }
        }
        sockets
    }
}

/// Port and inode of a line of `/proc/net/udp` or `tcp` that takes what strangers send.
fn listener(protocol: &str, line: &str) -> Option<(u16, u64)> {
    const TCP_LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let port = words.get(1)?.rsplit_once(':')?.1;
    let port = u16::from_str_radix(port, 16).ok()?;
    let listens = protocol == "udp" || words.get(3).copied() == Some(TCP_LISTEN);
    let inode = words.get(9)?.parse().ok()?;
    (listens && port != 0).then_some((port, inode))
}
