//! G.711 against the decision values of ITU-T G.711, tables 1 (A-law) and 2 (µ-law), and its digital
//! milliwatt (tables 5 and 6).

use holdfast::codec::g711::{Law, compress, expand};

/// Decision values of one sign, from (how many intervals, their width).
fn decision_values(segments: &[(usize, i32)]) -> Vec<i32> {
    let mut values = vec![0];
    for (count, width) in segments {
        for _ in 0..*count {
            values.push(values.last().expect("begins with 0") + width);
        }
    }
    values
}

/// In units of 1/8159 of full scale.
fn mu_law() -> Vec<i32> {
    let wide = [4, 8, 16, 32, 64, 128, 256].map(|width| (16, width));
    decision_values(&[&[(1, 1), (15, 2)][..], &wide[..]].concat())
}

/// In units of 1/4096 of full scale.
fn a_law() -> Vec<i32> {
    let wide = [4, 8, 16, 32, 64, 128].map(|width| (16, width));
    decision_values(&[&[(32, 2)][..], &wide[..]].concat())
}

fn code(law: Law, interval: usize, negative: bool) -> u8 {
    let interval = u8::try_from(interval).expect("128 intervals a sign");
    match (law, negative) {
        (Law::Mu, false) => 0xff - interval,
        (Law::Mu, true) => 0x7f - interval,
        (Law::A, false) => (0x80 | interval) ^ 0x55,
        (Law::A, true) => interval ^ 0x55,
    }
}

#[test]
fn every_code_is_the_middle_of_its_interval() {
    for (law, values, scale) in [(Law::Mu, mu_law(), 4), (Law::A, a_law(), 8)] {
        assert_eq!(values.len(), 129, "{law:?}");
        for (interval, ends) in values.windows(2).enumerate() {
            // The first interval of µ-law is half an interval around zero.
            let zero = law == Law::Mu && interval == 0;
            let middle = if zero { 0 } else { (ends[0] + ends[1]) * scale / 2 };
            for (negative, expect) in [(false, middle), (true, -middle)] {
                let got = i32::from(expand(law, code(law, interval, negative)));
                assert_eq!(got, expect, "{law:?} interval {interval}");
            }
        }
    }
}

#[test]
fn every_sample_falls_into_its_interval() {
    for (law, values, shift) in [(Law::Mu, mu_law(), 2), (Law::A, a_law(), 3)] {
        for sample in i16::MIN..=i16::MAX {
            let negative = sample < 0;
            let magnitude = i32::from(if negative { !sample } else { sample }) >> shift;
            let interval = values.partition_point(|value| *value <= magnitude) - 1;
            let expect = code(law, interval.min(127), negative);
            assert_eq!(compress(law, sample), expect, "{law:?} {sample}");
        }
    }
}

#[test]
#[allow(clippy::approx_constant, reason = "the level that G.711 names, in dBm0")]
fn the_digital_milliwatt_is_a_kilohertz_at_0_dbm0() {
    for (law, period, overload_dbm0) in [
        (Law::Mu, [0x1e, 0x0b, 0x0b, 0x1e, 0x9e, 0x8b, 0x8b, 0x9e], 3.17),
        (Law::A, [0x34, 0x21, 0x21, 0x34, 0xb4, 0xa1, 0xa1, 0xb4], 3.14),
    ] {
        let samples = period.map(|byte| f64::from(expand(law, byte)));
        let power = samples.iter().map(|sample| sample * sample).sum::<f64>() / 8.0;
        // A sine that just overloads has half the square of the greatest value as its power.
        let overload = match law {
            Law::Mu => 8_159.0 * 4.0,
            Law::A => 4_096.0 * 8.0,
        };
        let level = 10.0 * (power / (overload * overload / 2.0)).log10() + overload_dbm0;
        assert!(level.abs() < 0.05, "{law:?} {level}");
        let again = period.map(|byte| compress(law, expand(law, byte)));
        assert_eq!(again, period);
    }
}
