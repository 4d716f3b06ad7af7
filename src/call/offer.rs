//! Bodies of phones as descriptions, and the statuses for those that are none.

use crate::sdp::offer_answer::{Disagreement, screened};
use crate::sdp::{Description, LegDescription};
use crate::sip::{HeaderName, Headers, Request, Response, Status};

/// What a message carries.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// No body.
    Nothing,
    /// SDP.
    Description(Box<Description>),
    /// A body that must be refused with this status: 400 malformed, 413 too large, 415 not SDP.
    Bad(Status),
}

impl Body {
    pub fn of_request(request: &Request) -> Self {
        Self::read(&request.headers, &request.body)
    }

    pub fn of_response(response: &Response) -> Self {
        Self::read(&response.headers, &response.body)
    }

    /// The description, if it is one.
    pub fn description(self) -> Option<Description> {
        match self {
            Self::Description(description) => Some(*description),
            Self::Nothing | Self::Bad(_) => None,
        }
    }

    /// The offer of that leg's phone, as its user may make it.
    pub fn offer(self, leg: &LegDescription) -> Result<Option<Description>, Disagreement> {
        self.description().map(|offer| screened(offer, leg)).transpose()
    }

    fn read(headers: &Headers, body: &[u8]) -> Self {
        if body.is_empty() {
            return Self::Nothing;
        }
        let kind = headers.get(&HeaderName::ContentType).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/sdp") {
            return Self::Bad(Status(415));
        }
        match Description::parse(body) {
            Ok(description) => Self::Description(Box::new(description)),
            Err(crate::sdp::SdpError::Malformed) => Self::Bad(Status(400)),
            Err(crate::sdp::SdpError::TooLarge) => Self::Bad(Status(413)),
        }
    }
}
