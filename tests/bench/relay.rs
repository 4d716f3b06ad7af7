//! RTP relays: rtpengine in userspace and Holdfast's media node in turn, with the same calls.

use super::holdfast::{Holdfast, Keeps};
use super::media::{Described, Media, OPUS_BITS_A_SECOND};
use super::memory::DIRECTORY;
use super::options::Options;
use super::phones::Phones;
use super::report::{Case, Counted, Figures};
use super::rtp_load::{Flows, RtpLoad};
use super::rtpengine::Rtpengine;
use super::usage::Meter;
use super::world::World;
use std::thread;

/// While calls are set up.
const SET_UP_RATE: u32 = 100;
/// Looks at memory, so far apart as a change of a user takes.
const SETTLES_WITHIN: usize = 5;

/// Each number of calls that is wanted, with everything that B may speak.
pub(crate) fn relays(options: &Options, world: &World) {
    for media in Media::ALL {
        let calls = match media {
            Media::Opus => options.transcoded_calls(),
            Media::Pcmu | Media::Srtp => options.relay_calls(),
        };
        for calls in calls {
            let name = format!("{}, {calls} two-way calls", media.name());
            if options.wants(&name, true) {
                relay(options, world, media, calls, name);
            }
        }
    }
}

fn relay(options: &Options, world: &World, media: Media, calls: usize, title: String) {
    let mut case = Case::new(title, "packet", "rtpengine, userspace", "Holdfast");
    let mut load = RtpLoad::new();
    let mut peer = Rtpengine::start(world);
    let of_peer: Vec<_> = (0..calls).map(|call| peer.call(media, call, load.ports(call))).collect();
    let mut of_peer = Flows::new(media, &of_peer);
    let holdfast = Holdfast::start(world, Keeps::Sqlite, calls * 2);
    if media == Media::Srtp {
        (0..calls).for_each(|call| holdfast.secure(call * 2 + 1));
        thread::sleep(DIRECTORY);
    }
    let before = settled(&holdfast);
    let mut phones = Phones::new(holdfast.sip, calls * 2);
    let mut of_holdfast = Flows::new(media, &call_through(&mut phones, media, &load, calls));
    let mut bytes = [(0, 0); 2];
    for _ in 0..options.runs() {
        let mut measured = |side: usize, flows: &mut Flows, meter: &Meter| {
            let heard = load.run(flows, options.warmup(), options.window(), meter);
            bytes[side] = (heard.payload_bytes, heard.first_byte);
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
        };
        let first = measured(0, &mut of_peer, &peer.meter);
        let second = measured(1, &mut of_holdfast, &holdfast.meter);
        case.push(first, second);
    }
    let grown = holdfast.resident("media").saturating_sub(before) * 1_024 / calls as u64;
    phones.hang_up(SET_UP_RATE);
    case.print();
    println!("Memory that a call's sound took in Holdfast's media process: {grown} bytes");
    if media == Media::Opus {
        let [peer, ours] = bytes.map(|(bytes, first)| format!("{bytes} bytes, {}", kind(first)));
        println!(
            "A packet of Opus to B, {OPUS_BITS_A_SECOND} bit/s asked for: rtpengine {peer}; Holdfast {ours}"
        );
    }
}

/// Memory of the media process once it has given back what its start took.
fn settled(holdfast: &Holdfast) -> u64 {
    let mut resident = holdfast.resident("media");
    for _ in 0..SETTLES_WITHIN {
        thread::sleep(DIRECTORY);
        let before = core::mem::replace(&mut resident, holdfast.resident("media"));
        if before == resident {
            break;
        }
    }
    resident
}

/// RFC 6716 §3.1.
fn kind(first: u8) -> String {
    let (mode, bandwidth) = match first >> 3 {
        0..=3 => ("SILK", "narrowband"),
        4..=7 => ("SILK", "mediumband"),
        8..=11 => ("SILK", "wideband"),
        12..=13 => ("hybrid", "superwideband"),
        14..=15 => ("hybrid", "fullband"),
        16..=19 => ("CELT", "narrowband"),
        20..=23 => ("CELT", "wideband"),
        24..=27 => ("CELT", "superwideband"),
        _ => ("CELT", "fullband"),
    };
    format!("{mode} {bandwidth}, {}", if first & 4 == 0 { "mono" } else { "stereo" })
}

/// Real calls; what each side was told.
fn call_through(
    phones: &mut Phones,
    media: Media,
    load: &RtpLoad,
    calls: usize,
) -> Vec<[Described; 2]> {
    phones.media = media;
    phones.rtp_ports = (0..calls).flat_map(|call| load.ports(call)).collect();
    phones.register_all(SET_UP_RATE * 10);
    let established = phones.establish(calls, SET_UP_RATE);
    assert_eq!(established, calls, "calls that are established");
    let server = |user| phones.told.get(&user).expect("a description for each leg").clone();
    (0..calls).map(|call| [server(call * 2), server(call * 2 + 1)]).collect()
}
