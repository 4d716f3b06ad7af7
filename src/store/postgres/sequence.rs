//! Where the sequences of a transaction's CDRs and events begin: `cdr_sequence`, written out.
//!
//! A function in SQL is parsed and planned anew by each statement that calls it: that was a quarter of a commit, and
//! most of a look at the log.

/// Of the transaction with this id.
macro_rules! sequence_of {
    ($transaction:literal) => {
        concat!(
            "(select (",
            $transaction,
            "::text::bigint + coalesce(
            (select value::bigint from settings where name = 'cdr_sequence_offset'), 0)) * 65536)"
        )
    };
}

/// Of this transaction.
macro_rules! sequence {
    () => {
        sequence_of!("pg_current_xact_id()")
    };
}

/// Of the oldest transaction that may still commit: what is below stays as it is.
macro_rules! settled {
    () => {
        sequence_of!("pg_snapshot_xmin(pg_current_snapshot())")
    };
}
