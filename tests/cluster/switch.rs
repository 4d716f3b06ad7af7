//! The switch under test: two signaling processes and a media process of one host.

use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually, ports};
use serde_json::Value;
use std::ops::RangeInclusive;

/// The only process, mode `both`: on SQLite, then on PostgreSQL.
#[allow(clippy::print_stdout, reason = "which one failed is told with the failure")]
pub(crate) fn on_each_database(test: impl Fn(Server)) {
    let postgres = Postgres::start();
    for database in [None, Some(postgres.url("postgres"))] {
        println!("{database:?}");
        let setting = database.as_deref().map(|url| ("HOLDFAST_DATABASE_URL", url));
        test(Server::start_with(setting.as_slice()));
    }
}

/// Processes that share a database, a SIP address and a data directory.
pub(crate) struct Switch {
    pub(crate) signaling: Vec<Server>,
    pub(crate) media: Process,
    /// Of the media process.
    pub(crate) media_ports: RangeInclusive<u16>,
    pub(crate) host: Host,
    pub(crate) postgres: Postgres,
}

impl Switch {
    /// Two signaling processes that know each other, and a media process that both know.
    pub(crate) fn start() -> Self {
        Self::with_media_ports(ports::media_ports())
    }

    /// The same, with room for more calls.
    pub(crate) fn with_media_ports(media_ports: RangeInclusive<u16>) -> Self {
        Self::with_settings(media_ports, &[])
    }

    /// The same, and its signaling processes have these settings.
    pub(crate) fn with_settings(
        media_ports: RangeInclusive<u16>,
        settings: &[(&'static str, &'static str)],
    ) -> Self {
        let postgres = Postgres::start();
        let host = Host::new(&postgres.url("postgres")).with_settings(settings);
        let media = host.media_with(&media_ports);
        let signaling = vec![host.signaling(), host.signaling()];
        let switch = Self { signaling, media, media_ports, host, postgres };
        for server in &switch.signaling {
            switch.wait_for_links(server, 2);
        }
        switch
    }

    /// So many other nodes have a link with this one.
    pub(crate) fn wait_for_links(&self, server: &Server, count: usize) {
        wait_for_links(server, count);
    }

    /// The only live call, as any node tells of it, and which process owns it.
    pub(crate) fn owner(&self) -> usize {
        let owner = eventually("a call is there", SOON, || {
            self.signaling.iter().find_map(|server| {
                let calls = server.list("/calls");
                Some(calls.first()?["owner"].as_str()?.to_owned())
            })
        });
        self.at(&owner)
    }

    /// Which process is this node.
    pub(crate) fn at(&self, node: &str) -> usize {
        let at = self.signaling.iter().position(|server| server.node() == node);
        at.expect("a node of our processes")
    }

    /// Takes the owner's process out; it is dropped, and so killed, when the caller is done with it.
    pub(crate) fn take_owner(&mut self) -> Server {
        let owner = self.owner();
        self.signaling.remove(owner)
    }

    /// The one that is left.
    pub(crate) fn survivor(&self) -> &Server {
        &self.signaling[0]
    }
}

/// So many other nodes have a link with this one.
pub(crate) fn wait_for_links(server: &Server, count: usize) {
    eventually("the nodes know each other", SOON, || {
        let nodes = server.list("/nodes");
        let own = nodes.iter().find(|node| node["name"] == server.node().as_str())?;
        let up = own["links"].as_array()?.iter().filter(|link| link["state"] == "up");
        (up.count() == count).then_some(())
    });
}

/// Exactly one record, of an answered call that was taken over so often.
pub(crate) fn check_record(cdrs: &[Value], takeovers: u64) {
    let [cdr] = cdrs else { panic!("one record: {cdrs:#?}") };
    assert_eq!(cdr["disposition"], "answered", "{cdr:#?}");
    assert_eq!(cdr["takeovers"], takeovers, "{cdr:#?}");
    let (duration, billable) = (cdr["duration_ms"].as_u64(), cdr["billable_ms"].as_u64());
    assert!(billable > Some(0) && billable <= duration, "{cdr:#?}");
}
