//! Session keys from the master key (RFC 3711 §4.3, RFC 7714 §11): once a stream, never derived anew.

use super::{Keying, Suite};
use aes::cipher::{KeyIvInit, StreamCipher};
use aes::{Aes128, Aes256};
use ctr::Ctr32BE;

/// What a derived key is for (RFC 3711 §4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// The first `N` bytes of the keystream of AES-CM at `label` xor the master salt.
pub(super) fn derive<const N: usize>(keying: &Keying, label: Label) -> [u8; N] {
    // A salt of 96 bits is padded on its right; r is 0; the last two bytes count blocks.
    let mut iv = [0_u8; 16];
    for (to, from) in iv.iter_mut().zip(keying.salt()) {
        *to = *from;
    }
    iv[7] ^= label as u8;
    let mut key = [0; N];
    match keying.suite() {
        Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 | Suite::AeadAes128Gcm => {
            let stream = Ctr32BE::<Aes128>::new_from_slices(keying.key(), &iv);
            stream.expect("the suite's length").apply_keystream(&mut key);
        }
        Suite::AeadAes256Gcm => {
            let stream = Ctr32BE::<Aes256>::new_from_slices(keying.key(), &iv);
            stream.expect("the suite's length").apply_keystream(&mut key);
        }
    }
    key
}
