//! RFC 7616 §3.9.1, through the public door only; every other vector stands beside the code.

use holdfast::sip::Method;
use holdfast::sip::digest::{Credentials, respond};

#[test]
fn both_algorithms() {
    for (algorithm, expect) in [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ] {
        let challenge = format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"x\""
        );
        let value = respond(
            &challenge,
            &Method::from("GET"),
            "/dir/index.html",
            "Mufasa",
            "Circle of Life",
            "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            1,
        );
        let credentials = value.as_deref().and_then(Credentials::parse).expect("credentials");
        assert_eq!(credentials.response, expect, "{algorithm}");
    }
}
