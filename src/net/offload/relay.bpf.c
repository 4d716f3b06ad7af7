// Passes RTP on within the kernel: a packet that is exactly the next one of a stream that was told to us gets its
// listener's header and leaves; every other packet goes up to its socket as if we were not here.
//
// What to do is in `rules`, written by the media worker; what was done is in `progress`, written here alone, so that
// no word has two writers: the worker's first one comes before the rule, and packets of one flow come to one queue.
// This file and src/net/offload.rs describe the same words.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

// The kernel's helper functions, by their numbers in its API (linux/bpf.h).
static void *(*const look_up)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*const monotonic_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*const store)(struct __sk_buff *, __u32 at, const void *from, __u32 bytes, __u64 flags) =
    (void *)BPF_FUNC_skb_store_bytes;
static long (*const load)(const struct __sk_buff *, __u32 at, void *to, __u32 bytes) =
    (void *)BPF_FUNC_skb_load_bytes;
static __s64 (*const sum_of_change)(__be32 *from, __u32 from_bytes, __be32 *to, __u32 to_bytes, __wsum seed) =
    (void *)BPF_FUNC_csum_diff;
static long (*const repair_sum)(struct __sk_buff *, __u32 at, __u64 from, __u64 to, __u64 flags) =
    (void *)BPF_FUNC_l4_csum_replace;
static long (*const send_by)(__u32 interface, void *neighbour, int bytes, __u64 flags) =
    (void *)BPF_FUNC_redirect_neigh;

#define SECTION(name) __attribute__((section(name), used))
#define big16(value) __builtin_bswap16(value)
#define big32(value) __builtin_bswap32(value)
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "written for little-endian machines"
#endif

// To the next program of this interface, in the end to the socket.
#define PASS (-1)
#define DROP 2
#define LOOPBACK 1
// PACKET_HOST of linux/if_packet.h.
#define TO_US 0
#define FRAGMENT 0x3fff
#define EXPEDITED_FORWARDING 0xb8
#define HOPS 64
// No padding, extension, contributing sources or marker: version 2 alone (RFC 3550 section 5.1).
#define PLAIN_RTP 0x80
// After a longer pause the worker wants to see for itself who speaks.
#define PAUSE_NS 1000000000ULL
#define NS_A_SECOND 1000000000ULL
#define NS_A_US 1000
#define PORTS 65536

struct rtp {
    __u8 flags, payload_type;
    __be16 sequence;
    __be32 timestamp, ssrc;
};

struct packet {
    struct iphdr ip;
    struct udphdr udp;
    struct rtp rtp;
};

// Fourteen words; addresses, ports and SSRCs as they are in packets.
struct rule {
    // Which packets.
    __be32 source, local;
    __be16 source_port;
    __u16 first_sequence;
    __be32 ssrc;
    __u32 clock_rate_hz;
    // What they become.
    __be32 new_source, new_destination;
    __be16 new_source_port, new_destination_port;
    __be32 new_ssrc;
    __u32 timestamp_offset;
    __u16 sequence_offset;
    __u8 payload_type, new_payload_type;
    // 0: they stay on this host.
    __u32 interface;
    // By the host's monotonic clock; later packets are the worker's until it makes another rule.
    __u64 until_ns;
};
_Static_assert(sizeof(struct rule) == 14 * 4, "as Rule::words says");

// Four words of 64 bits: the kernel copies each at once, so a reader sees none half written.
struct progress {
    // Packets since the rule; RTP timestamp of the last one.
    __u32 packets, timestamp;
    // Of their payloads.
    __u64 bytes;
    // When the last one came, by the host's monotonic clock.
    __u64 at_ns;
    // RFC 3550 appendix A.8, in sixteenths of a timestamp unit; the longest time between two packets.
    __u32 jitter_16, pause_us;
};
_Static_assert(sizeof(struct progress) == 4 * 8, "as Progress::words says");

struct {
    int (*type)[BPF_MAP_TYPE_HASH];
    int (*max_entries)[PORTS];
    int (*map_flags)[BPF_F_NO_PREALLOC];
    __u32 *key;
    struct rule *value;
} rules SECTION(".maps");

struct {
    int (*type)[BPF_MAP_TYPE_ARRAY];
    int (*max_entries)[PORTS];
    __u32 *key;
    struct progress *value;
} progress SECTION(".maps");

static __always_inline int is_plain(const struct packet *packet, __u32 length)
{
    __u32 in_all = big16(packet->ip.tot_len);
    return packet->ip.version == 4 && packet->ip.ihl == 5 && packet->ip.protocol == IPPROTO_UDP &&
           !(packet->ip.frag_off & big16(FRAGMENT)) && in_all >= sizeof(*packet) && in_all <= length &&
           big16(packet->udp.len) + sizeof(packet->ip) == in_all && packet->rtp.flags == PLAIN_RTP;
}

static __always_inline int is_expected(const struct packet *packet, const struct rule *rule,
                                       const struct progress *last)
{
    __u16 next = rule->first_sequence + last->packets;
    return packet->ip.saddr == rule->source && packet->ip.daddr == rule->local &&
           packet->udp.source == rule->source_port && packet->rtp.ssrc == rule->ssrc &&
           packet->rtp.payload_type == rule->payload_type && big16(packet->rtp.sequence) == next;
}

static __always_inline void count(struct progress *last, const struct packet *packet, __u32 clock_rate_hz,
                                  __u32 step, __u64 now)
{
    __u64 pause = now - last->at_ns;
    __s64 late = (__s64)(pause * clock_rate_hz / NS_A_SECOND) - step;
    __u64 difference = late < 0 ? -late : late;
    last->jitter_16 += difference - ((last->jitter_16 + 8) >> 4);
    if (pause / NS_A_US > last->pause_us)
        last->pause_us = pause / NS_A_US;
    last->bytes += big16(packet->udp.len) - sizeof(packet->udp) - sizeof(packet->rtp);
    last->at_ns = now;
    // Both at once, for who reads meanwhile.
    __u64 both = (__u64)big32(packet->rtp.timestamp) << 32 | (last->packets + 1);
    *(volatile __u64 *)last = both;
}

static __always_inline void sum_header(struct iphdr *ip)
{
    ip->check = 0;
    __u64 sum = sum_of_change(0, 0, (__be32 *)ip, sizeof(*ip), 0);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ip->check = ~sum;
}

static __always_inline int rewrite(struct __sk_buff *buffer, const struct packet *was, const struct rule *rule)
{
    const __u32 at = sizeof(struct ethhdr), udp = at + sizeof(was->ip);
    struct packet now = *was;
    now.ip.saddr = rule->new_source;
    now.ip.daddr = rule->new_destination;
    now.ip.tos = EXPEDITED_FORWARDING;
    now.ip.ttl = HOPS;
    sum_header(&now.ip);
    now.udp.source = rule->new_source_port;
    now.udp.dest = rule->new_destination_port;
    now.rtp.payload_type = rule->new_payload_type;
    now.rtp.sequence = big16((__u16)(big16(was->rtp.sequence) + rule->sequence_offset));
    now.rtp.timestamp = big32(big32(was->rtp.timestamp) + rule->timestamp_offset);
    now.rtp.ssrc = rule->new_ssrc;
    // What the network card may have to sum is told apart: addresses belong to the pseudo header (RFC 768).
    __s64 addresses = sum_of_change((__be32 *)&was->ip.saddr, 8, (__be32 *)&now.ip.saddr, 8, 0);
    __s64 rest = sum_of_change((__be32 *)&was->udp.source, 4, (__be32 *)&now.udp.source, 4, 0);
    rest = sum_of_change((__be32 *)&was->rtp, sizeof(was->rtp), (__be32 *)&now.rtp, sizeof(now.rtp), rest);
    const __u32 sum = udp + __builtin_offsetof(struct udphdr, check);
    return repair_sum(buffer, sum, 0, addresses, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) ||
           repair_sum(buffer, sum, 0, rest, BPF_F_MARK_MANGLED_0) ||
           store(buffer, at, &now.ip, sizeof(now.ip), 0) ||
           store(buffer, udp, &now.udp.source, 4, 0) ||
           store(buffer, udp + sizeof(now.udp), &now.rtp, sizeof(now.rtp), 0);
}

SECTION("classifier")
int relay(struct __sk_buff *buffer)
{
    struct packet packet;
    // What is not for this host's own address on the wire is none of ours.
    if (buffer->pkt_type != TO_US || buffer->protocol != big16(ETH_P_IP) || buffer->vlan_present || buffer->gso_segs > 1 ||
        load(buffer, sizeof(struct ethhdr), &packet, sizeof(packet)))
        return PASS;
    if (!is_plain(&packet, buffer->len - sizeof(struct ethhdr)))
        return PASS;
    __u32 port = big16(packet.udp.dest);
    struct rule *rule = look_up(&rules, &port);
    if (!rule)
        return PASS;
    struct progress *last = look_up(&progress, &port);
    if (!last || !is_expected(&packet, rule, last))
        return PASS;
    __u64 now = monotonic_ns();
    __u32 step = big32(packet.rtp.timestamp) - last->timestamp;
    if (now > rule->until_ns || now - last->at_ns > PAUSE_NS || step == 0 || step > rule->clock_rate_hz)
        return PASS;
    // What came from elsewhere and seems to be sent by ourselves is not let in (RFC 1812 section 5.3.7).
    if (!rule->interface && buffer->ifindex != LOOPBACK)
        return PASS;
    if (rewrite(buffer, &packet, rule))
        return DROP;
    count(last, &packet, rule->clock_rate_hz, step, now);
    return rule->interface ? send_by(rule->interface, 0, 0, 0) : PASS;
}

// Of this file alone, for the kernel's helpers: MIT, as the rest, or GPL-2.0.
char terms[] SECTION("license") = "Dual MIT/GPL";
