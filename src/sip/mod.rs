//! SIP on the wire and by the rules: messages, transactions, dialogs, digest (RFC 3261 and friends). Sans-io.
//!
//! Invariant: nothing here panics on input; one bad header never loses the message; what we do not know is kept.

pub mod address;
pub mod dialog;
pub mod digest;
pub mod framing;
pub mod header;
mod lexer;
pub mod message;
pub mod method;
pub mod name_addr;
pub mod status;
pub mod transaction;
pub mod uri;
pub mod via;

pub use dialog::Dialog;
pub use header::{HeaderName, Headers};
pub use message::{CSeq, Message, MessageError, Request, Response};
pub use method::Method;
pub use name_addr::NameAddr;
pub use status::Status;
pub use uri::Uri;
pub use via::Via;
