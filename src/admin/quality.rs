//! `/calls/{id}/quality`: how a call sounded over time, alive or over.

use super::extract::Name;
use super::ladder::kept;
use super::problem::Problem;
use super::{Admin, Services};
use crate::ids::CallId;
use crate::views::Rfc3339;
use crate::views::ladder::{Entry, Scope, What};
use crate::views::quality::{LegQuality, Passed, QualitySample, QualityView, Sounded};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;

/// Of one leg and direction; the older ones are put together by twos until there are no more.
const SAMPLES: usize = 360;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/calls/{id}/quality", get(quality))
}

/// How a call sounds, or sounded, over time: of each leg and direction a series of samples, as long as its ladder is
/// kept.
#[utoipa::path(get, path = "/calls/{id}/quality", tag = "calls",
    operation_id = "get_quality", params(("id" = String, Path)),
    responses((status = 200, body = QualityView),
        (status = 404, body = Problem, description = "Nothing is kept of such a call")))]
pub(super) async fn quality(
    services: Services,
    Name(id): Name,
) -> Result<Json<QualityView>, Problem> {
    let none = || Problem::not_found("nothing is kept of such a call");
    let id: CallId = id.parse().map_err(|_| none())?;
    let entries = kept(&services, id, Scope::Sound).await?;
    // A call that nobody has answered yet is one all the same.
    if entries.is_empty() && kept(&services, id, Scope::Signaling).await?.is_empty() {
        return Err(none());
    }
    Ok(Json(view(id, &entries)))
}

fn view(id: CallId, entries: &[Entry]) -> QualityView {
    let mut legs: Vec<LegQuality> = Vec::new();
    for entry in entries {
        let What::Sound(Sounded { since, legs: sounded }) = &entry.what else { continue };
        for one in sounded {
            let at = legs.iter().position(|leg| leg.leg == one.leg.0).unwrap_or_else(|| {
                let (from_phone, to_phone) = (Vec::new(), Vec::new());
                legs.push(LegQuality { leg: one.leg.0, role: one.role, from_phone, to_phone });
                legs.len() - 1
            });
            let span_ms = entry.at.as_millis().saturating_sub(since.as_millis());
            let sample = |passed: &Passed| QualitySample {
                at: Rfc3339(entry.at),
                span_ms,
                packets: passed.packets.into(),
                lost: passed.lost.map(Into::into),
                jitter_ms: passed.jitter_us.map(milliseconds),
                rtt_ms: one.rtt_us.map(milliseconds),
                mos: passed.mos.map(|mos| f64::from(mos) / 100.0),
            };
            let leg = &mut legs[at];
            leg.role = one.role;
            leg.from_phone.push(sample(&one.from_phone));
            leg.to_phone.push(sample(&one.to_phone));
        }
    }
    for leg in &mut legs {
        for series in [&mut leg.from_phone, &mut leg.to_phone] {
            *series = thinned(core::mem::take(series));
        }
    }
    QualityView { call_id: id.to_string(), legs }
}

fn milliseconds(micros: u32) -> f64 {
    f64::from(micros) / 1_000.0
}

/// No more than `SAMPLES`; the younger half stays as it is.
fn thinned(mut series: Vec<QualitySample>) -> Vec<QualitySample> {
    while series.len() > SAMPLES {
        let young = series.split_off(series.len() - SAMPLES / 2);
        let old = series.chunks(2).map(|pair| match pair {
            [one, other] => together(one, other),
            _ => pair[0].clone(),
        });
        series = old.chain(young).collect();
    }
    series
}

/// As good as the worse of both.
fn together(one: &QualitySample, other: &QualitySample) -> QualitySample {
    let most = |values: [Option<f64>; 2]| values.into_iter().flatten().reduce(f64::max);
    QualitySample {
        at: other.at,
        span_ms: one.span_ms + other.span_ms,
        packets: one.packets + other.packets,
        lost: [one.lost, other.lost].into_iter().flatten().reduce(|sum, lost| sum + lost),
        jitter_ms: most([one.jitter_ms, other.jitter_ms]),
        rtt_ms: most([one.rtt_ms, other.rtt_ms]),
        mos: [one.mos, other.mos].into_iter().flatten().reduce(f64::min),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn sample(number: u64) -> QualitySample {
        QualitySample {
            at: Rfc3339(Timestamp::from_millis(number * 5_000)),
            span_ms: 5_000,
            packets: 250,
            lost: Some(u64::from(number == 7)),
            jitter_ms: Some(2.0),
            rtt_ms: None,
            mos: Some(if number == 7 { 4.2 } else { 4.4 }),
        }
    }

    #[test]
    fn a_long_series_is_short_and_loses_nothing_that_matters() {
        for count in [0, 1, 360, 361, 1_858, 5_000] {
            let all: Vec<_> = (0..count).map(sample).collect();
            let thin = thinned(all.clone());
            assert!(thin.len() <= SAMPLES && (thin.len() > SAMPLES / 2 || thin == all), "{count}");
            let young = all.len().min(SAMPLES / 2);
            assert_eq!(thin[thin.len() - young..], all[all.len() - young..], "{count}");
            let packets: u64 = thin.iter().map(|one| one.packets).sum();
            let span_ms: u64 = thin.iter().map(|one| one.span_ms).sum();
            let lost: Option<u64> = thin.iter().map(|one| one.lost).sum();
            assert_eq!((packets, span_ms), (count * 250, count * 5_000));
            assert_eq!(lost, Some(u64::from(count > 7)));
            let worst = thin.iter().filter_map(|one| one.mos).reduce(f64::min);
            assert!(count <= 7 || worst == Some(4.2), "{count}: {worst:?}");
        }
    }
}
