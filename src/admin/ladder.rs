//! `/calls/{id}/ladder` and `/calls/{id}/pcap`: what was said in SIP in a call, alive or over.

use super::extract::Name;
use super::problem::Problem;
use super::{Admin, Services};
use crate::capture::{ENTRIES, Said, Watch, pcap};
use crate::ids::CallId;
use crate::operator::Command;
use crate::sip::{Message, Response, Status};
use crate::views::Rfc3339;
use crate::views::ladder::{
    Entry, LadderDirection, LadderMark, LadderMessage, LadderView, Scope, What,
};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/calls/{id}/ladder", get(ladder)).route("/calls/{id}/pcap", get(capture))
}

/// The signaling of a call, alive or over, from whichever nodes had it.
#[utoipa::path(get, path = "/calls/{id}/ladder", tag = "calls",
    operation_id = "get_ladder", params(("id" = String, Path)),
    responses((status = 200, body = LadderView),
        (status = 404, body = Problem, description = "Nothing is kept of such a call")))]
pub(super) async fn ladder(
    services: Services,
    Name(id): Name,
) -> Result<Json<LadderView>, Problem> {
    let (id, entries) = entries(&services, &id, Scope::Signaling).await?;
    Ok(Json(view(id, &entries)))
}

/// The same for Wireshark, and RTCP of the call's media as it was exchanged with phones (of SRTCP what is inside): raw
/// IP with the addresses and times that the packets had.
#[utoipa::path(get, path = "/calls/{id}/pcap", tag = "calls",
    operation_id = "get_pcap", params(("id" = String, Path)),
    responses((status = 200, content_type = "application/vnd.tcpdump.pcap", body = Vec<u8>),
        (status = 404, body = Problem, description = "Nothing is kept of such a call")))]
pub(super) async fn capture(
    services: Services,
    Name(id): Name,
) -> Result<impl IntoResponse, Problem> {
    let (_, entries) = entries(&services, &id, Scope::Everything).await?;
    Ok(([(header::CONTENT_TYPE, "application/vnd.tcpdump.pcap")], pcap(&entries)))
}

async fn entries(
    services: &Services,
    id: &str,
    scope: Scope,
) -> Result<(CallId, Vec<Entry>), Problem> {
    let none = || Problem::not_found("nothing is kept of the signaling of such a call");
    let id: CallId = id.parse().map_err(|_| none())?;
    let entries = kept(services, id, scope).await?;
    if entries.is_empty() {
        return Err(none());
    }
    Ok((id, entries))
}

/// What all hosts keep of a call.
pub(super) async fn kept(
    services: &Services,
    id: CallId,
    scope: Scope,
) -> Result<Vec<Entry>, Problem> {
    Ok(services.operator.ask(|answer| Command::Ladder(id, scope, answer)).await?)
}

fn view(id: CallId, entries: &[Entry]) -> LadderView {
    let mut watch = Watch::default();
    let (mut messages, mut marks) = (Vec::new(), Vec::new());
    for entry in entries {
        let (at, node) = (Rfc3339(entry.at), entry.node.clone());
        let What::Message { leg, received, transport, local, remote, text } = &entry.what else {
            if let What::Mark(text) = &entry.what {
                marks.push(LadderMark { at, node, text: text.clone() });
            }
            continue;
        };
        let (leg, received, remote) = (*leg, *received, *remote);
        let retransmission = watch.see(&Said { leg, received, remote, text });
        let (method, status, summary) = summary(text);
        messages.push(LadderMessage {
            number: u32::try_from(messages.len() + 1).unwrap_or(u32::MAX),
            at,
            node,
            leg: leg.0,
            direction: match received {
                true => LadderDirection::Received,
                false => LadderDirection::Sent,
            },
            transport: transport.name().to_owned(),
            local: local.to_string(),
            remote: remote.to_string(),
            method,
            status,
            summary,
            retransmission,
            text: String::from_utf8_lossy(text).into_owned(),
        });
    }
    let truncated = entries.len() >= ENTRIES;
    let flags = watch.flags().into_iter().collect();
    LadderView { call_id: id.to_string(), messages, marks, flags, truncated }
}

/// Method, status, and both in words.
fn summary(text: &[u8]) -> (String, Option<u16>, String) {
    match Message::parse(&bytes::Bytes::copy_from_slice(text)) {
        Ok(Message::Request(request)) => {
            let method = request.method.as_str().to_owned();
            (method.clone(), None, method)
        }
        Ok(Message::Response(response)) => {
            let Response { status: Status(status), reason, .. } = &response;
            let method = response.cseq().map(|cseq| cseq.method.as_str().to_owned());
            let method = method.unwrap_or_default();
            let summary = format!("{status} {reason} ({method})");
            (method, Some(*status), summary)
        }
        Err(_) => (String::new(), None, "not SIP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LegId, Transport};
    use crate::time::Timestamp;
    use crate::views::CallFlag;

    fn entry(number: u64, received: bool, text: &str) -> Entry {
        let what = What::Message {
            leg: LegId(0),
            received,
            transport: Transport::Udp,
            local: "192.0.2.1:5060".parse().expect("an address"),
            remote: "203.0.113.7:5060".parse().expect("an address"),
            text: text.to_owned().into(),
        };
        Entry { at: Timestamp::from_millis(number), node: "one".to_owned(), number, what }
    }

    fn headers(method: &str) -> String {
        format!(
            "Via: SIP/2.0/UDP 203.0.113.7;branch=z9hG4bK1\r\nFrom: <sip:1@x>;tag=1\r\n\
             To: <sip:2@x>\r\nCall-ID: 1\r\nMax-Forwards: 70\r\nCSeq: 1 {method}\r\n"
        )
    }

    fn request(method: &str) -> String {
        format!("{method} sip:2@x SIP/2.0\r\n{}Content-Length: 0\r\n\r\n", headers(method))
    }

    fn response(status: u16, method: &str) -> String {
        format!("SIP/2.0 {status} Word\r\n{}Content-Length: 0\r\n\r\n", headers(method))
    }

    #[test]
    fn what_is_wrong_is_flagged() {
        let invite = format!("{}c=IN IP4 192.168.1.9\r\n", request("INVITE"));
        let ack = request("ACK");
        let (invite, ack) = (invite.as_str(), ack.as_str());
        let flags = |texts: &[(bool, &str)]| {
            let entries: Vec<Entry> =
                (1..).zip(texts).map(|(number, (got, text))| entry(number, *got, text)).collect();
            view(CallId(1), &entries).flags
        };
        let ok = response(200, "INVITE");
        assert_eq!(flags(&[(true, invite)]), [CallFlag::PrivateAddressInSdp]);
        assert_eq!(flags(&[(false, invite)]), []);
        assert_eq!(flags(&[(false, &ok), (false, &ok)]), [CallFlag::AckMissing]);
        assert_eq!(flags(&[(false, &ok), (false, &ok), (true, ack)]), []);
        assert_eq!(flags(&[(true, ack); 4]), [CallFlag::RetransmissionStorm]);
        let refused = response(488, "INVITE");
        assert_eq!(flags(&[(true, &refused)]), [CallFlag::MediaRejected]);
    }

    #[test]
    fn a_repeated_message_is_marked() {
        let bye = &request("BYE");
        let entries = [entry(1, true, bye), entry(2, true, bye), entry(3, false, bye)];
        let view = view(CallId(1), &entries);
        let again: Vec<bool> = view.messages.iter().map(|one| one.retransmission).collect();
        assert_eq!(again, [false, true, false]);
        assert_eq!(view.messages[0].summary, "BYE");
    }
}
