//! `POST /users/import`: many users from CSV, read and stored in pieces, so the size of the file
//! does not matter.
//!
//! Invariants: a line that is wrong fails alone; a body that breaks off never makes a user of half
//! a line; what was stored before a break stays.

use super::{Admin, Services, new_user, rules, tell};
use crate::admin::extract::{Query, next_piece, require_type};
use crate::admin::problem::{FieldError, Problem};
use crate::directory::User;
use crate::limits::IMPORT_LINES;
use crate::net::clock;
use crate::operator::Command;
use crate::sip::digest::Ha1;
use crate::views::NewUser;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

mod lines;

use lines::{Line, Parsed};

/// Lines stored at a time.
const CHUNK: usize = 500;
/// After so many failures nobody reads on.
const FAILURES: usize = 10_000;

pub(in crate::admin) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/users/import", post(import))
}

/// What to do with a user that exists already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::admin) enum OnConflict {
    /// Leave it.
    Skip,
    /// Set password and display name.
    Update,
    /// Tell it among the failures.
    #[default]
    Fail,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct ImportQuery {
    /// What to do with a user that exists already.
    #[serde(default)]
    #[param(value_type = Option<OnConflict>)]
    on_conflict: OnConflict,
    /// Only say what would be done.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    dry_run: bool,
}

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::admin) struct Imported {
    /// New users.
    created: u64,
    /// Users that were there and have a new password.
    updated: u64,
    /// Users that were there and stay as they are.
    skipped: u64,
    /// Lines that came to nothing.
    failed: Vec<Failure>,
}

/// A line that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::admin) struct Failure {
    /// Line of the file, the header is line 1.
    line: u64,
    /// Column.
    field: String,
    /// Why.
    detail: String,
}

/// Users from CSV with the header `extension,password[,display_name]`.
#[utoipa::path(post, path = "/users/import", tag = "users",
    operation_id = "import_users", params(ImportQuery),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, body = Imported), (status = 408, body = Problem)))]
pub(in crate::admin) async fn import(
    services: Services,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Imported>, Problem> {
    require_type(&headers, |kind| kind == "text/csv")?;
    let (pieces, for_parser) = mpsc::channel(8);
    let (for_store, mut chunks) = mpsc::channel::<Vec<Parsed>>(2);
    let parser = tokio::task::spawn_blocking(move || lines::parse(for_parser, &for_store, CHUNK));
    let mut import = Import { services, query, seen: HashSet::new(), result: Imported::default() };
    let feed = async move {
        let mut stream = body.into_data_stream();
        loop {
            match next_piece(&mut stream).await {
                Ok(Some(piece)) => {
                    if pieces.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(problem) => {
                    // The parser must not take half a line for a whole one.
                    let _ = pieces.send(Err(())).await;
                    return Err(problem);
                }
            }
        }
    };
    let store = async move {
        while let Some(chunk) = chunks.recv().await {
            import.chunk(chunk).await?;
            if import.result.failed.len() >= FAILURES {
                break;
            }
        }
        Ok::<_, Problem>(import)
    };
    let (fed, stored) = tokio::join!(feed, store);
    let parsed = parser.await.map_err(|_| Problem::no_answer("the import was stopped"))?;
    let import = stored?;
    if import.result.created + import.result.updated > 0 && !import.query.dry_run {
        tell(&import.services, Command::UsersImported).await;
    }
    fed?;
    parsed.map_err(|(field, detail)| Problem::fields(vec![FieldError::new(field, detail)]))?;
    Ok(Json(import.result))
}

struct Import {
    services: Services,
    query: ImportQuery,
    seen: HashSet<String>,
    result: Imported,
}

impl Import {
    async fn chunk(&mut self, lines: Vec<Parsed>) -> Result<(), Problem> {
        let mut users: Vec<User> = Vec::with_capacity(lines.len());
        let mut numbers: Vec<u64> = Vec::with_capacity(lines.len());
        for line in lines {
            match line.and_then(|line| self.check(line)) {
                Ok(line) => {
                    numbers.push(line.number);
                    users.push(self.user(line).await?);
                }
                Err((number, error)) => self.fail(number, &error),
            }
        }
        let exists = if self.query.dry_run {
            self.existing(&users).await?
        } else {
            let update = self.query.on_conflict == OnConflict::Update;
            self.services.store.import_users(&users, update).await?
        };
        let exists: HashSet<&str> = exists.iter().map(String::as_str).collect();
        for (user, number) in users.iter().zip(numbers) {
            match self.query.on_conflict {
                _ if !exists.contains(user.extension.as_str()) => self.result.created += 1,
                OnConflict::Update => self.result.updated += 1,
                OnConflict::Skip => self.result.skipped += 1,
                OnConflict::Fail => {
                    self.fail(number, &FieldError::new("extension", "exists already"));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, line: Line) -> Result<Line, (u64, FieldError)> {
        let at = |error| (line.number, error);
        rules::check_extension(&line.extension).map_err(at)?;
        rules::check_password(&line.extension, &line.password).map_err(at)?;
        if self.seen.len() >= IMPORT_LINES {
            return Err(at(FieldError::new("line", format!("more than {IMPORT_LINES} lines"))));
        }
        if !self.seen.insert(line.extension.clone()) {
            return Err(at(FieldError::new("extension", "stands in the file twice")));
        }
        let user = NewUser {
            display_name: line.display_name.clone().unwrap_or_default(),
            ..NewUser::default()
        };
        let blank = new_user(user, "", "");
        rules::check_user(&blank).into_iter().next().map_or(Ok(()), |error| Err(at(error)))?;
        Ok(line)
    }

    /// An update keeps what the file does not name.
    async fn user(&self, line: Line) -> Result<User, Problem> {
        let realm = &self.services.realm;
        if self.query.on_conflict == OnConflict::Update
            && let Some(mut user) = self.services.store.user(&line.extension).await?
        {
            user.ha1 = Ha1::new(&line.extension, realm, &line.password);
            user.display_name = line.display_name.unwrap_or(user.display_name);
            user.updated_at = clock::now();
            return Ok(user);
        }
        let new = NewUser {
            extension: line.extension,
            display_name: line.display_name.unwrap_or_default(),
            ..NewUser::default()
        };
        Ok(new_user(new, &line.password, realm))
    }

    async fn existing(&self, users: &[User]) -> Result<Vec<String>, Problem> {
        let mut exists = Vec::new();
        for user in users {
            if self.services.store.user(&user.extension).await?.is_some() {
                exists.push(user.extension.clone());
            }
        }
        Ok(exists)
    }

    fn fail(&mut self, line: u64, error: &FieldError) {
        if self.result.failed.len() < FAILURES {
            let field = error.pointer.trim_start_matches('/').to_owned();
            self.result.failed.push(Failure { line, field, detail: error.detail.clone() });
        }
    }
}
