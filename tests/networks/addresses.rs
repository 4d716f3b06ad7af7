//! Which address each phone is told, in SIP and in SDP: several networks, IPv4, IPv6 and both at once.

use crate::common::api::Api;
use crate::common::network::{Machine, in_a_network, ip};
use crate::common::phone::{Phone, audio_address};
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::common::speech::Law;
use crate::common::{SOON, eventually, own_ip, ports};
use crate::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair};
use holdfast::sip::{HeaderName, Headers, Status};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What phones of elsewhere are told.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 111);

/// A phone at an address of this place, by the server's address of that family.
fn phone(api: &Api, server: SocketAddr, at: IpAddr, user: &str) -> Phone {
    let password = api.user(user);
    eventually("it registers", SOON, || {
        let mut phone = Phone::udp_at(at, server, user, password);
        (phone.register(&[]).status == Status(200)).then_some(phone)
    })
}

fn contact_host(headers: &Headers) -> String {
    let contact = headers.get(&HeaderName::Contact).expect("a Contact").to_owned();
    let host = contact.split_once('@').map_or(contact.as_str(), |(_, rest)| rest);
    host.trim_end_matches('>').split(';').next().unwrap_or_default().to_owned()
}

/// One calls the other; both hear each other, hold, resume, and one hangs up.
fn talk(attempt: Attempt) -> [Phone; 2] {
    let mut pair = Pair::answered(attempt);
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    [pair.caller.phone, pair.callee.phone]
}

#[test]
fn phones_of_ipv4_and_ipv6_call_each_other() {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, v4.port()));
    let binds = format!("{v4},{v6}");
    let settings = [("HOLDFAST_SIP_BIND", binds.as_str()), ("HOLDFAST_MEDIA_BIND", "0.0.0.0")];
    let server = Server::start_with(&settings);
    let switch = |of: SocketAddr| Api { sip: of, admin: server.admin, token: server.token.clone() };
    for (caller_at, callee_at) in [(v4, v6), (v6, v4), (v6, v6)] {
        let caller = phone(&switch(caller_at), caller_at, caller_at.ip(), "1001");
        let callee = phone(&switch(callee_at), callee_at, callee_at.ip(), "1002");
        let voices = [(caller_at, CALLER_HZ), (callee_at, CALLEE_HZ)];
        let talks = voices.map(|(at, tone_hz)| Talk::speaking_at(at.ip(), tone_hz, Law::Mu));
        let uri = format!("sip:1002@{caller_at}");
        let attempt = Attempt::with_talks(caller, callee, &uri, talks);
        // Each is told an address of its own family, in SIP and in SDP.
        assert_eq!(contact_host(&attempt.received.headers), callee_at.to_string());
        assert_eq!(audio_address(&attempt.received.body).is_ipv6(), callee_at.is_ipv6());
        let [mut caller, mut callee] = talk(attempt);
        caller.unregister();
        callee.unregister();
    }
}

#[test]
fn phones_of_local_nets_are_told_the_local_address_and_others_the_public_one() {
    in_a_network(|network| {
        let (machine, lan, far) = (network.machine(11), network.machine(12), network.machine(13));
        let public = PUBLIC.to_string();
        let local_nets = format!("{}/32", lan.ip);
        let server = machine.within(|| {
            ip(&format!("addr add {PUBLIC}/24 dev cable"));
            let bind = format!("0.0.0.0:{}", ports::port());
            Server::start_with(&[
                ("HOLDFAST_SIP_BIND", &bind),
                ("HOLDFAST_MEDIA_BIND", "0.0.0.0"),
                ("HOLDFAST_SIP_ADVERTISE", &public),
                ("HOLDFAST_MEDIA_ADVERTISE", &public),
                ("HOLDFAST_LOCAL_NETS", &local_nets),
            ])
        });
        let (_, bind) = server
            .settings()
            .into_iter()
            .rfind(|(key, _)| *key == "HOLDFAST_SIP_BIND")
            .expect("set");
        let port = bind.rsplit_once(':').expect("a port").1.parse().expect("a port");
        let address = |ip: Ipv4Addr| SocketAddr::from((ip, port));
        let (near, outside) = (address(machine.ip), address(PUBLIC));
        let register = |place: &Machine, server_at: SocketAddr, user: &str| {
            place.within(|| phone(&server, server_at, place.ip.into(), user))
        };
        let told = |attempt: &Attempt| {
            let media = audio_address(&attempt.received.body).ip();
            (contact_host(&attempt.received.headers), media)
        };
        let voice = |place: &Machine, tone_hz| place.within(|| Talk::new(tone_hz));
        let one = register(&lan, near, "1001");
        let other = register(&far, outside, "1002");
        let talks = [voice(&lan, CALLER_HZ), voice(&far, CALLEE_HZ)];
        let attempt = Attempt::with_talks(one, other, &format!("sip:1002@{near}"), talks);
        assert_eq!(told(&attempt), (outside.to_string(), IpAddr::from(PUBLIC)));
        let [one, other] = talk(attempt);
        let talks = [voice(&far, CALLER_HZ), voice(&lan, CALLEE_HZ)];
        let attempt = Attempt::with_talks(other, one, &format!("sip:1001@{outside}"), talks);
        assert_eq!(told(&attempt), (near.to_string(), IpAddr::from(machine.ip)));
        talk(attempt);
    });
}

/// It is heard all the same, where it comes from: what it names is of no use to anybody outside.
#[test]
fn a_phone_of_the_public_internet_that_names_a_private_address_is_flagged() {
    in_a_network(|network| {
        let machine = network.machine(11);
        let public = IpAddr::from([203, 0, 113, 7]);
        machine.within(|| ip("route add 203.0.113.0/24 dev cable"));
        ip("addr add 203.0.113.7/24 dev switch");
        let server = machine.within(Server::start);
        let near = phone(&server, server.sip, IpAddr::from(own_ip()), "1001");
        let far = phone(&server, server.sip, public, "1002");
        let uri = server.uri("1002");
        let voices = [Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ)];
        talk(Attempt::with_talks(near, far, &uri, voices));
        let [cdr] = &server.cdrs(1)[..] else { panic!("one") };
        let flags = cdr["flags"].as_array().expect("a list");
        assert!(flags.contains(&"private_address_in_sdp".into()), "{cdr:#?}");
        assert_eq!(server.list("/cdrs?flag=private_address_in_sdp").len(), 1);
    });
}
