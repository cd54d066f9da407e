//! How long records are kept, how large they and their pages are, and how many at a time.

use std::path::Path;
use std::time::Duration;

use tailkeep::audit::Retention;
use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader, Verified};

use crate::audit::{SOON, fault_after, fill, now_us, verify};
use crate::record;

/// Waits until the log says so.
async fn until(path: &Path, what: &str, holds: impl Fn(&Verified) -> bool) -> Verified {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let verified = verify(path);
        assert_eq!(verified.fault, None, "while it was pruned");
        if holds(&verified) {
            return verified;
        }
        assert!(std::time::Instant::now() < deadline, "never {what}: {verified:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_go_and_the_chain_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    // Old ones over more than one step, then some of today.
    fill(&log, 4500, 1).await;
    fill(&log, 500, now_us()).await;
    log.retain(Retention {
        keep_days: 1,
        bytes_max: 0,
    });
    let verified = until(&path, "pruned", |verified| verified.removed == 4500).await;
    // What remains: today's, and a note of each of the three steps.
    assert_eq!((verified.records, verified.last), (503, 5003));
    let rows = Reader::open(&path).unwrap().select(&Filter::default()).unwrap();
    assert_eq!(rows[0]["id"], 4501);
    assert_eq!(rows.last().unwrap()["cause"], "pruned");
    assert!(
        rows.last().unwrap()["summary"]
            .as_str()
            .unwrap()
            .contains("keep_days")
    );
    // What stays is as well guarded as before.
    for change in [
        "DELETE FROM record WHERE id = 4501",
        "UPDATE record SET summary = 'x' WHERE id = 4600",
        "DELETE FROM outcome WHERE seq = (SELECT min(seq) FROM outcome)",
        "DELETE FROM record WHERE cause = 'pruned'",
        "UPDATE record SET facts = replace(facts, '4500', '4499') WHERE id = 5003",
    ] {
        assert!(fault_after(&path, change).is_some(), "unseen: {change}");
    }
    // A restart goes on, and nothing of today is ever removed by age.
    drop(log);
    let log = Log::open(&path).unwrap();
    log.retain(Retention {
        keep_days: 1,
        bytes_max: 0,
    });
    fill(&log, 300, now_us()).await;
    let verified = verify(&path);
    assert_eq!(
        (verified.removed, verified.records, verified.fault),
        (4500, 803, None)
    );
    // An outcome that comes after its record went is kept, and harms nothing.
    log.finish(tailkeep::audit::RecordId(7), tailkeep::audit::Outcome::default());
    log.flush().await.unwrap();
    assert_eq!(verify(&path).fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_under_its_bytes() {
    const BYTES_MAX: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    fill(&log, 6000, now_us()).await;
    let used = || {
        let connection = rusqlite::Connection::open(&path).unwrap();
        let number = |name| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .unwrap()
        };
        u64::try_from((number("page_count") - number("freelist_count")) * number("page_size")).unwrap()
    };
    assert!(used() > BYTES_MAX * 3 / 2, "{}", used());
    log.retain(Retention {
        keep_days: 0,
        bytes_max: BYTES_MAX,
    });
    until(&path, "small", |_| used() <= BYTES_MAX).await;
    // However small the limit: the newest stay.
    log.retain(Retention {
        keep_days: 0,
        bytes_max: 1,
    });
    let kept = until(&path, "at the least", |verified| verified.records <= 300).await;
    assert!(kept.records >= 256, "{kept:?}");
    // And no limit removes nothing.
    log.retain(Retention {
        keep_days: 0,
        bytes_max: 0,
    });
    fill(&log, 1000, 1).await;
    assert_eq!(verify(&path).records, kept.records + 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_pages_are_bounded() {
    use tailkeep::audit::FACT_BYTES_MAX;
    use tailkeep::audit::read::PAGE_BYTES_MAX;
    let mut large = record("large");
    let text = |bytes: usize| "x".repeat(bytes);
    large.facts = serde_json::json!({
        "method": "post", "body": text(FACT_BYTES_MAX - 2), "raw_path": text(FACT_BYTES_MAX - 1),
        "headers": { "a": [text(FACT_BYTES_MAX)] },
    })
    .into();
    let facts: serde_json::Value = serde_json::from_str(large.facts.as_str()).unwrap();
    assert_eq!(facts["method"], "post");
    assert_eq!(facts["body"].as_str().unwrap().len(), FACT_BYTES_MAX - 2);
    for cut in ["raw_path", "headers"] {
        assert_eq!(facts[cut]["unknown"], "truncated", "{cut}");
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let count = PAGE_BYTES_MAX / FACT_BYTES_MAX + 20;
    for n in 0..count {
        let mut record = record(&n.to_string());
        record.facts = serde_json::json!({ "body": text(FACT_BYTES_MAX - 2) }).into();
        log.append(record).await.unwrap();
    }
    log.flush().await.unwrap();
    let reader = Reader::open(&path).unwrap();
    let first = reader.select(&Filter::default()).unwrap();
    assert!(
        first.len() < count && first.len() >= count - 21,
        "{}",
        first.len()
    );
    let after = first.last().unwrap()["id"].as_u64().unwrap();
    let rest = reader
        .select(&Filter {
            after,
            ..Filter::default()
        })
        .unwrap();
    assert_eq!(first.len() + rest.len(), count);
    let newest = reader
        .select(&Filter {
            newest: true,
            ..Filter::default()
        })
        .unwrap();
    assert_eq!(newest.last().unwrap()["id"], count);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_under_load() {
    const TASKS: usize = 64;
    const EACH: usize = 150;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let began = std::time::Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    log.append(record(&format!("{task}-{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rate = (TASKS * EACH) as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} durable records a second from {TASKS} callers");
    log.flush().await.unwrap();
    let verified = verify(&path);
    assert_eq!((verified.records, verified.fault), ((TASKS * EACH) as u64, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_agents_and_rules_is_of_the_newest() {
    use tailkeep::audit::activity::{ACTIVE_AGENTS_MAX, ACTIVITY_RECORDS_MAX};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let mut first = record("first");
    first.rule = Some("all".into());
    log.append(first).await.unwrap();
    log.flush().await.unwrap();
    drop(log);
    // The same record again and again, of another agent each.
    let connection = rusqlite::Connection::open(&path).unwrap();
    let columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_info('record')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let value = |column: &String| match column.as_str() {
        "id" => "i".to_owned(),
        "node" => "'n' || i".to_owned(),
        column => column.to_owned(),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO record ({}) SELECT {} FROM record, n WHERE id = 1",
        columns.join(", "),
        values.join(", ")
    );
    connection.execute(&fill, [ACTIVITY_RECORDS_MAX + 100]).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.active_agents().unwrap().len() as i64, ACTIVE_AGENTS_MAX);
    let rules = reader.active_rules().unwrap();
    assert_eq!((rules.len(), rules[0].hits as i64), (1, ACTIVITY_RECORDS_MAX));
}
