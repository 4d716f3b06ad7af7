//! SRTP of our own phones by another implementation than the one under test: keys told in SDP (RFC 4568), packets
//! protected and opened with webrtc-srtp.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

/// A suite by its name in a=crypto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    key_bytes: usize,
    salt_bytes: usize,
}

pub(crate) const CM_80: Suite =
    Suite { name: "AES_CM_128_HMAC_SHA1_80", key_bytes: 16, salt_bytes: 14 };
pub(crate) const CM_32: Suite =
    Suite { name: "AES_CM_128_HMAC_SHA1_32", key_bytes: 16, salt_bytes: 14 };
pub(crate) const GCM_128: Suite = Suite { name: "AEAD_AES_128_GCM", key_bytes: 16, salt_bytes: 12 };
pub(crate) const GCM_256: Suite = Suite { name: "AEAD_AES_256_GCM", key_bytes: 32, salt_bytes: 12 };

impl Suite {
    fn context(self, material: &[u8]) -> Context {
        let profile = match self.name {
            "AES_CM_128_HMAC_SHA1_80" => ProtectionProfile::Aes128CmHmacSha1_80,
            "AES_CM_128_HMAC_SHA1_32" => ProtectionProfile::Aes128CmHmacSha1_32,
            "AEAD_AES_128_GCM" => ProtectionProfile::AeadAes128Gcm,
            _ => ProtectionProfile::AeadAes256Gcm,
        };
        let (key, salt) = material.split_at(self.key_bytes);
        Context::new(key, salt, profile, None, None).expect("a key of its length")
    }
}

/// What a phone does to its audio.
pub(crate) struct Secured {
    suite: Suite,
    /// Of its m= line, until the other side names another.
    protocol: String,
    tag: String,
    material: Vec<u8>,
    sends: Context,
    /// The far key as it was told, and what opens with it.
    receives: Option<(String, Context)>,
}

impl Secured {
    /// `seed` makes its key.
    pub(crate) fn new(suite: Suite, protocol: &str, seed: u8) -> Self {
        let bytes = suite.key_bytes + suite.salt_bytes;
        let material: Vec<u8> = (0..bytes).map(|at| seed.wrapping_mul(31) ^ at as u8).collect();
        Self {
            suite,
            protocol: protocol.to_owned(),
            tag: "1".to_owned(),
            sends: suite.context(&material),
            material,
            receives: None,
        }
    }

    /// Our description with our key in it.
    pub(crate) fn describe(&self, sdp: &str) -> String {
        let (tag, suite, key) = (&self.tag, self.suite.name, self.own_key());
        let line = format!("a=crypto:{tag} {suite} inline:{key}|2^31\r\n");
        sdp.replacen("RTP/AVP", &self.protocol, 1) + &line
    }

    /// The far side's description: its key in our suite.
    pub(crate) fn told(&mut self, sdp: &str) {
        let lines = sdp.lines().filter_map(|line| line.strip_prefix("a=crypto:"));
        let mut ways = lines.map(|line| line.split(' ').collect::<Vec<_>>());
        let Some(way) = ways.find(|way| way.get(1) == Some(&self.suite.name)) else {
            self.receives = None;
            return;
        };
        way[0].clone_into(&mut self.tag);
        let media = sdp.lines().find(|line| line.starts_with("m=audio")).expect("audio");
        media.split(' ').nth(2).expect("a protocol").clone_into(&mut self.protocol);
        let key = way[2].strip_prefix("inline:").expect("a key").split('|').next();
        let key = key.unwrap_or_default().to_owned();
        if self.receives.as_ref().is_none_or(|(known, _)| *known != key) {
            let material = STANDARD.decode(&key).expect("base64");
            self.receives = Some((key, self.suite.context(&material)));
        }
    }

    /// As it stands in our description.
    pub(crate) fn own_key(&self) -> String {
        STANDARD.encode(&self.material)
    }

    /// As it was told last.
    pub(crate) fn far_key(&self) -> Option<&str> {
        self.receives.as_ref().map(|(key, _)| key.as_str())
    }

    pub(crate) fn protect(&mut self, packet: &[u8]) -> Vec<u8> {
        self.sends.encrypt_rtp(packet).expect("protected").to_vec()
    }

    /// `None`: not under the far key.
    pub(crate) fn open(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (_, context) = self.receives.as_mut()?;
        Some(context.decrypt_rtp(packet).ok()?.to_vec())
    }
}
