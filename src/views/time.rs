//! Times in the API: RFC 3339, UTC, milliseconds.

use crate::time::Timestamp;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The last that can be read back.
const LAST_MILLIS: u64 = 253_402_207_200_000;
#[cfg(test)]
const LAST: &str = "9999-12-30T22:00:00.000Z";

/// A `Timestamp` that reads and writes itself as `2026-01-31T12:00:00.000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct Rfc3339(pub Timestamp);

impl Rfc3339 {
    /// A CDR has a dozen times: they are written digit by digit. The calendar is Gregorian and has no leap seconds.
    fn digits(self) -> [u8; 24] {
        let millis = self.0.as_millis().min(LAST_MILLIS);
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (at, width, number) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, of_day / 3_600_000),
            (14, 2, of_day / 60_000 % 60),
            (17, 2, of_day / 1_000 % 60),
            (20, 3, of_day % 1_000),
        ] {
            let mut rest = number;
            for digit in text.iter_mut().skip(at).take(width).rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        }
        text
    }
}

/// Year, month and day of a day counted from 1970: eras of 400 years, years that begin in March.
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Rfc3339 {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let millis = text.parse::<jiff::Timestamp>()?.as_millisecond();
        Ok(Self(Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))))
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.digits();
        serializer.serialize_str(core::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Rfc3339 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_always_show() {
        let time = Rfc3339(Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.000Z");
        assert_eq!("2023-11-14T22:13:20.000Z".parse::<Rfc3339>().ok(), Some(time));
        assert_eq!(Rfc3339(Timestamp::from_micros(u64::MAX)).to_string(), LAST);
    }

    #[test]
    fn the_calendar_is_the_librarys() {
        let step = 86_400_000 * 13 + 7_654_321;
        for millis in (0..LAST_MILLIS).step_by(step) {
            let time = Rfc3339(Timestamp::from_millis(millis));
            let expect = jiff::Timestamp::from_millisecond(i64::try_from(millis).expect("small"));
            assert_eq!(time.to_string(), format!("{:.3}", expect.expect("in range")));
        }
    }
}
