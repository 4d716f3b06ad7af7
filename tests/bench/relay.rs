//! RTP relays: rtpengine in userspace and Holdfast's media node in turn, with the same calls.

use super::holdfast::{Holdfast, Keeps};
use super::options::Options;
use super::phones::Phones;
use super::report::{Case, Counted, Figures};
use super::rtp_load::RtpLoad;
use super::rtpengine::Rtpengine;
use super::usage::Meter;
use super::world::World;
use std::net::SocketAddrV4;

/// While calls are set up.
const SET_UP_RATE: u32 = 100;

/// Each number of calls that is wanted.
pub(crate) fn relays(options: &Options, world: &World) {
    for calls in options.relay_calls() {
        let name = format!("relay pcmu, {calls} two-way calls");
        if options.wants(&name, true) {
            relay(options, world, calls, name);
        }
    }
}

fn relay(options: &Options, world: &World, calls: usize, title: String) {
    let mut case = Case::new(title, "packet", "rtpengine, userspace", "Holdfast");
    let mut load = RtpLoad::new();
    let mut peer = Rtpengine::start(world);
    let of_peer: Vec<_> = (0..calls)
        .map(|call| {
            let [a, b] = load.ports(call);
            peer.call(call, a, b)
        })
        .collect();
    let holdfast = Holdfast::start(world, Keeps::Sqlite, calls * 2);
    let mut phones = Phones::new(holdfast.sip, calls * 2);
    let of_holdfast = call_through(&mut phones, &load, calls);
    for _ in 0..options.runs() {
        let first = measured(options, &mut load, &of_peer, &peer.meter);
        let second = measured(options, &mut load, &of_holdfast, &holdfast.meter);
        case.push(first, second);
    }
    phones.hang_up(SET_UP_RATE);
    case.print();
}

/// Real calls; where each side is to send.
fn call_through(phones: &mut Phones, load: &RtpLoad, calls: usize) -> Vec<[SocketAddrV4; 2]> {
    phones.rtp_ports = (0..calls).flat_map(|call| load.ports(call)).collect();
    phones.register_all(SET_UP_RATE * 10);
    let established = phones.establish(calls, SET_UP_RATE);
    assert_eq!(established, calls, "calls that are established");
    let server = |user| *phones.rtp_servers.get(&user).expect("a description for each leg");
    (0..calls).map(|call| [server(call * 2), server(call * 2 + 1)]).collect()
}

fn measured(
    options: &Options,
    load: &mut RtpLoad,
    calls: &[[SocketAddrV4; 2]],
    meter: &Meter,
) -> Figures {
    load.set_calls(calls);
    let heard = load.run(options.warmup(), options.window(), meter);
    let came = heard.latencies.len();
    let counted = Counted {
        units: came,
        offered: heard.sent,
        failed: heard.sent.saturating_sub(came),
        repeated: came.saturating_sub(heard.sent),
        latencies: heard.latencies,
        late: heard.late,
    };
    Figures::new(counted, &heard.used)
}
