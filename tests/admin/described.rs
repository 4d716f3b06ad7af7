//! Every route that is served is in the OpenAPI document with all its methods, and nothing else is.

use super::{Api, TOKEN, start};
use holdfast::admin;
use std::collections::BTreeSet;

/// What browsers are given, which is no API.
const FILES: [&str; 3] = ["/", "/docs", "/console/{file}"];
/// At the unix socket of a process, not here.
const OWN: &str = "POST /api/v1/reload";

/// Paths of the router, as it shows them itself, without those by which it finds nothing below `/api/v1`.
fn paths(api: &Api) -> BTreeSet<String> {
    let shown = format!("{:?}", admin::router(&api.admin));
    let quoted = shown.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    let is_fallback = |path: &str| path.contains("{*") || path.trim_end_matches('/') == "/api/v1";
    quoted.filter(|path| !is_fallback(path)).map(str::to_owned).collect()
}

/// `METHOD /path` of each: who asks by a method that there is not is told those that there are.
fn served(api: &Api) -> BTreeSet<String> {
    let bearer = format!("Bearer {TOKEN}");
    let mut served = BTreeSet::new();
    for path in paths(api).iter().filter(|path| !FILES.contains(&path.as_str())) {
        let some = path.replace(['{', '}'], "");
        let refused = api.send("PUT", &some, &[("Authorization", &bearer)], "");
        assert_eq!(refused.status, 405, "PUT {path}");
        let allowed = refused.headers["allow"].to_str().expect("methods").to_owned();
        let methods = allowed.split(',').map(str::trim).filter(|method| *method != "HEAD");
        served.extend(methods.map(|method| format!("{method} {path}")));
    }
    served
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let api = start("described");
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").body;
    let described =
        document["paths"].as_object().expect("paths").iter().flat_map(|(path, item)| {
            let methods = ["get", "post", "put", "patch", "delete"];
            let own = methods.into_iter().filter(|method| !item[*method].is_null());
            own.map(move |method| format!("{} {path}", method.to_uppercase()))
        });
    let described: BTreeSet<String> = described.filter(|one| one != OWN).collect();
    let served = served(&api);
    assert!(served.len() > 40, "{served:?}");
    assert_eq!(served, described);
    assert!(document["paths"]["/api/v1/reload"]["post"].is_object());
}
