//! The REST API of a switch under test, however it was started.

use super::{SOON, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const PASSWORD: &str = "correct-horse-battery";

/// Where a switch is reached.
pub(crate) struct Api {
    pub(crate) sip: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) token: String,
}

impl Api {
    /// Name of the node that answers.
    pub(crate) fn node(&self) -> String {
        let (_, health) = self.request("GET", "/health", None).expect("the node answers");
        health["node"].as_str().expect("a name").to_owned()
    }

    /// Makes a user and gives its password.
    pub(crate) fn user(&self, extension: &str) -> &'static str {
        self.user_with(extension, &json!({}))
    }

    /// The same with other fields than a password.
    pub(crate) fn user_with(&self, extension: &str, fields: &Value) -> &'static str {
        let mut change = fields.clone();
        change["password"] = PASSWORD.into();
        let mut user = change.clone();
        user["extension"] = extension.into();
        let (status, told) = self.api("POST", "/users", Some(&user));
        if status == 409 {
            // One of the first start.
            let path = format!("/users/{extension}");
            let (status, told) = self.api("PATCH", &path, Some(&change));
            assert_eq!(status, 200, "{told}");
        } else {
            assert_eq!(status, 201, "{told}");
        }
        PASSWORD
    }

    /// A request to the API; there must be an answer.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.request(method, &format!("/api/v1{path}"), body).expect("the API answers")
    }

    /// What is no document.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let request = ureq::get(format!("http://{}/api/v1{path}", self.admin));
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        let mut answer = request.call().expect("an answer");
        answer.body_mut().read_to_vec().expect("bytes")
    }

    /// Items of a list.
    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        let (status, body) = self.api("GET", path, None);
        assert_eq!(status, 200, "{body}");
        body["items"].as_array().expect("items").clone()
    }

    /// Waits until all calls are over and gives the CDRs.
    pub(crate) fn cdrs(&self, count: usize) -> Vec<Value> {
        eventually("no call is left", SOON * 4, || self.list("/calls").is_empty().then_some(()));
        eventually(&format!("{count} CDRs"), SOON, || {
            let cdrs = self.list("/cdrs");
            assert!(cdrs.len() <= count, "more CDRs than calls: {cdrs:#?}");
            (cdrs.len() == count).then_some(cdrs)
        })
    }

    /// Waits for so many registrations of an extension.
    pub(crate) fn registrations(&self, extension: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} registrations of {extension}"), SOON, || {
            let found = self.list(&format!("/registrations?extension={extension}"));
            (found.len() == count).then_some(found)
        })
    }

    /// As a person dials it.
    pub(crate) fn uri(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.sip)
    }

    /// A request to any path; `None`: nobody answers.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(10)))
                .build(),
        );
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.admin))
            .header("Authorization", format!("Bearer {}", self.token));
        let answer = match body {
            Some(body) => agent.run(
                request
                    .header("Content-Type", "application/json")
                    .body(body.to_string())
                    .expect("a request"),
            ),
            None => agent.run(request.body(()).expect("a request")),
        };
        let mut answer = answer.ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Some((answer.status().as_u16(), body))
    }
}
