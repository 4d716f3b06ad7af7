//! What is dialled, and whom it rings.

use super::*;
use crate::ids::{Flow, NodeName, Transport};
use crate::sip::digest::Ha1;
use crate::views::user::SrtpPolicy;
use core::time::Duration;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn user(extension: &str, enabled: bool) -> User {
    User {
        extension: extension.to_owned(),
        display_name: String::new(),
        enabled,
        ha1: Ha1::new(extension, "holdfast", "password"),
        max_contacts: None,
        max_calls: None,
        ring_timeout_ms: None,
        codecs: Vec::new(),
        srtp: SrtpPolicy::Off,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn binding(contact: &str, q_milli: u16, refreshed_ms: u64) -> Binding {
    let refreshed_at = Timestamp::from_millis(refreshed_ms);
    Binding {
        id: contact.to_owned(),
        extension: "1001".to_owned(),
        aor: "sip:1001@pbx.example".to_owned(),
        contact: contact.to_owned(),
        instance_id: None,
        reg_id: None,
        q_milli,
        q_given: q_milli < 1_000,
        path: Vec::new(),
        call_id: contact.to_owned(),
        cseq: 1,
        user_agent: None,
        flow: Flow {
            transport: Transport::Udp,
            local: "192.0.2.1:5060".parse().expect("an address"),
            remote: "192.0.2.10:5060".parse().expect("an address"),
            connection: None,
        },
        nat: false,
        node: NodeName("n-1".into()),
        registered_at: refreshed_at,
        refreshed_at,
        expires_at: NOW + Duration::from_secs(60),
        flow_lost: false,
        ping_rtt_us: None,
    }
}

fn directory() -> Directory {
    let mut directory = Directory::default();
    for extension in ["1001", "1002", "+4930123", "anna.b"] {
        directory.set_user(user(extension, true));
    }
    directory.set_user(user("1003", false));
    let expired = Binding { expires_at: NOW, ..binding("sip:expired", 1_000, 999_999) };
    let lost = Binding { flow_lost: true, ..binding("sip:lost", 1_000, 999_999) };
    directory.set_bindings(
        "1001",
        vec![
            binding("sip:older", 1_000, 10),
            binding("sip:least", 100, 999_000),
            expired.clone(),
            lost.clone(),
            binding("sip:newer", 1_000, 20),
        ],
    );
    directory.set_bindings("1002", vec![expired, lost]);
    directory.set_bindings("+4930123", vec![binding("sip:number", 1_000, 10)]);
    directory.set_bindings("anna.b", vec![binding("sip:anna", 1_000, 10)]);
    directory
}

/// A decision in one line.
fn told(decision: &Decision) -> String {
    match decision {
        Decision::Ring { user, bindings } => {
            let contacts: Vec<&str> = bindings.iter().map(|b| b.contact.as_str()).collect();
            format!("{} rings {}", user.extension, contacts.join(" "))
        }
        Decision::Service(Service::Echo) => "echo".to_owned(),
        Decision::Refuse(status) => format!("refuse {status}"),
        Decision::Unknown { extension, user_known: true } => format!("{extension} has no phone"),
        Decision::Unknown { extension, user_known: false } => format!("no {extension}"),
    }
}

#[test]
fn dialled_uris_are_decided() {
    let directory = directory();
    let check = |uri: &str, expect: &str| {
        let uri = Uri::parse(uri).unwrap_or_else(|_| panic!("{uri}"));
        assert_eq!(told(&route(&directory, &uri, NOW)), expect, "{uri}");
    };
    let ringing = "1001 rings sip:newer sip:older sip:least";
    check("sip:1001@192.0.2.1", ringing);
    check("sip:1001@any.name.the.phone.knows:5070;transport=tcp", ringing);
    check("sips:1001@[2001:db8::1]", ringing);
    check("sip:%31%30%301@h", ringing);
    check("sip:1001:secret@h;user=phone", ringing);
    check("sip:1001;phone-context=example.com@h;user=phone", ringing);
    check("tel:1001", ringing);
    check("tel:10-01;phone-context=example.com", ringing);
    check("tel:+49-30-123", "+4930123 rings sip:number");
    check("sip:%2B4930123@h", "+4930123 rings sip:number");
    check("sip:anna.b@h", "anna.b rings sip:anna");
    check("sip:Anna.b@h", "no Anna.b");
    check("sip:*43@h", "echo");
    check("sip:%2A43@h", "echo");
    check("tel:*43;phone-context=h", "echo");
    check("sip:*44@h", "no *44");
    check("sip:1002@h", "1002 has no phone");
    check("sip:1003@h", "refuse 404");
    check("sip:1999@h", "no 1999");
    check("sip:h", "refuse 484");
    check("sip:;x=y@h", "refuse 484");
    check("urn:service:sos", "refuse 404");
    check("urn:service:sos.fire", "refuse 404");
    check("mailto:anna@h", "refuse 416");
}
