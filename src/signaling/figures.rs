//! What the SIP sockets of a node tell Prometheus.

use crate::net::tcp::Connections;
use crate::net::udp::UdpMeter;
use crate::telemetry::{Figure, Value};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

pub(super) fn of_sockets(udp: &[Arc<UdpMeter>], tcp: &Connections) -> Vec<Figure> {
    let sum = |of: &dyn Fn(&UdpMeter) -> &AtomicU64| {
        udp.iter().map(|meter| of(meter).load(Relaxed)).sum::<u64>()
    };
    let granted = udp.iter().map(|meter| meter.receive_buffer_bytes.load(Relaxed)).min();
    let [refused, overflowed] = tcp.shed();
    let figures = [
        (
            "sip_datagrams",
            "Datagrams of SIP sockets",
            Value::Counters(
                "direction",
                vec![
                    ("received", sum(&|meter| &meter.received)),
                    ("sent", sum(&|meter| &meter.sent)),
                ],
            ),
        ),
        (
            "sip_datagrams_dropped",
            "Datagrams lost here: by the kernel for want of room (kernel), because too many \
             waited to be sent (queue), not taken by the kernel (send)",
            Value::Counters(
                "by",
                vec![
                    ("kernel", sum(&|meter| &meter.dropped)),
                    ("queue", sum(&|meter| &meter.overflowed)),
                    ("send", sum(&|meter| &meter.send_errors)),
                ],
            ),
        ),
        (
            "sip_receive_buffer_bytes",
            "The least that the kernel granted a SIP socket over UDP, as it counts",
            Value::Gauge(granted.unwrap_or(0) as f64),
        ),
        ("sip_connections", "Connections of phones", Value::Gauge(tcp.count() as f64)),
        (
            "sip_connections_shed",
            "Connections not taken, for there are as many as there may be (refused), or closed \
             because their peer reads too slowly (overflowed)",
            Value::Counters("how", vec![("refused", refused), ("overflowed", overflowed)]),
        ),
    ];
    figures.into_iter().map(|(name, help, value)| Figure { name, help, value }).collect()
}
