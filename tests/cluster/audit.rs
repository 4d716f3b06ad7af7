//! The audit log over kill -9: whatever was done has its line, though its process was killed amid it.

use crate::common::api::Api;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::switch::on_each_database;
use serde_json::json;
use std::collections::BTreeSet;
use std::thread;

/// Kills, one after the other.
const KILLS: usize = 3;
/// Who make users at a time.
const WRITERS: usize = 8;
/// Users that are there when the process is killed, at least.
const USERS: usize = 40;

#[test]
fn a_change_of_a_killed_process_has_its_line() {
    on_each_database(|mut server| {
        let mut without_outcome = 0;
        for kill in 1..=KILLS {
            killed_amid(&mut server, kill);
            server.start_again();
            without_outcome += check(&server, kill);
        }
        println!("{without_outcome} lines of {KILLS} kills have no outcome");
    });
}

/// Users are made one after the other, by several at once, until nobody answers.
fn killed_amid(server: &mut Server, kill: usize) {
    let (sip, admin, token) = (server.sip, server.admin, server.token.clone());
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let api = Api { sip, admin, token: token.clone() };
            scope.spawn(move || {
                for number in 0.. {
                    let extension = format!("{kill}{writer}{number:04}");
                    let user = json!({ "extension": extension });
                    match api.request("POST", "/api/v1/users", Some(&user)) {
                        Some((status, told)) => assert_eq!(status, 201, "{told}"),
                        None => return,
                    }
                }
            });
        }
        eventually("users are made", SOON * 4, || {
            (users(server, kill).len() >= USERS).then_some(())
        });
        server.signaling.kill();
    });
}

/// Those that were made before this kill, and after the one before.
fn users(server: &Server, kill: usize) -> BTreeSet<String> {
    let users = server.list("/users?limit=1000");
    let extensions = users.iter().filter_map(|user| user["extension"].as_str());
    let prefix = kill.to_string();
    let made =
        extensions.filter(|extension| extension.len() == 6 && extension.starts_with(&prefix));
    made.map(str::to_owned).collect()
}

/// Each has one line, and what is told to be done is; lines without outcome.
fn check(server: &Server, kill: usize) -> usize {
    let users = users(server, kill);
    assert!(users.len() >= USERS, "{users:?}");
    let lines = server.list("/audit?limit=1000");
    let prefix = kill.to_string();
    let of_a_user = |line: &serde_json::Value| {
        let extension = line["asked"]["extension"].as_str()?;
        let is_its = line["path"] == "/users" && extension.starts_with(&prefix);
        is_its.then(|| (extension.to_owned(), line["status"].as_u64()))
    };
    let told: Vec<(String, Option<u64>)> = lines.iter().filter_map(of_a_user).collect();
    for user in &users {
        let its = told.iter().filter(|(extension, _)| extension == user).count();
        assert_eq!(its, 1, "lines of {user}: {told:?}");
    }
    for (extension, status) in &told {
        match status {
            Some(201) => assert!(users.contains(extension), "{extension} is told to be made"),
            other => assert_eq!(*other, Some(0), "{extension}"),
        }
    }
    told.iter().filter(|(_, status)| *status == Some(0)).count()
}
