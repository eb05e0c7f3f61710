//! What is told of the machine, the certificate and the log.

use alloc::vec::Vec;

use log::Level;

use super::*;

struct Small;

impl Machine for Small {
    fn log_lines(&self) -> Vec<LogLine> {
        vec![
            LogLine { at: 2, level: Level::Warn, text: HOSTILE.into() },
            LogLine { at: 1, level: Level::Info, text: "begun".into() },
        ]
    }

    fn lost_lines(&self) -> u64 {
        7
    }

    fn usage(&self) -> Usage {
        Usage { cpu_ms: Some(1234), resident_bytes: Some(4096), max_fds: Some(1024), open_fds: None }
    }
}

fn bench() -> Bench {
    let listeners = vec![
        Listening { address: "0.0.0.0:8080".into(), is_tls: false },
        Listening { address: "0.0.0.0:8443".into(), is_tls: true },
    ];
    let front = Front { listeners, join_command: "slime agent --hub h:1".into() };
    Bench::new(&AdminConfig { machine: Some(&Small), front: Some(front), ..AdminConfig::default() })
}

fn status(bench: &mut Bench) -> String {
    assert_eq!(bench.ask(LOOPBACK, &get("/api/status", "")), 200);
    let body = joined(&bench.text());
    assert_eq!(after_json(&body), Some(""), "{body}");
    body
}

#[test]
fn the_front_and_the_log_are_told() {
    let mut bench = bench();
    let body = status(&mut bench);
    for member in [
        r#""listeners":[{"address":"0.0.0.0:8080","tls":false},{"address":"0.0.0.0:8443","tls":true}]"#,
        r#""join_command":"slime agent --hub h:1","tls":null"#,
        r#"{"at":2,"level":"warn","text":"\u003c/script\u003e"#,
        r#"{"at":1,"level":"info","text":"begun"}]"#,
    ] {
        assert!(body.contains(member), "{member}: {body}");
    }
    let certificate = |expires| Certificate { pin: "sha256:00".into(), expires };
    bench.admin.set_certificate(certificate(None));
    assert!(status(&mut bench).contains(r#""tls":{"pin":"sha256:00","expires_at":null}"#));
    bench.admin.set_certificate(certificate(Some(1_900_000_000)));
    let body = status(&mut bench);
    assert!(body.contains(r#""expires_at":1900000000000}"#), "{body}");
    assert!(!body.contains("certificate_expires"), "{body}");
}

#[test]
fn what_matters_most_comes_first() {
    let mut bench = bench();
    let body = status(&mut bench);
    let first = r#""attention":[{"code":"draining","severity":"warn","since_at":null,"subject":"\u003c"#;
    assert!(body.contains(first), "{body}");
    for (left, severity, text) in [
        (14 * 86_400 - 1, "warn", "The certificate ends in 13 days."),
        (3 * 86_400, "warn", "The certificate ends in 3 days."),
        (3 * 86_400 - 1, "bad", "The certificate ends in 2 days."),
        (86_400, "bad", "The certificate ends in 24 hours."),
        (7199, "bad", "The certificate ends in 119 minutes."),
        (0, "bad", "The certificate has ended."),
    ] {
        let expires = Some(bench.now.unix + left);
        bench.admin.set_certificate(Certificate { pin: "sha256:00".into(), expires });
        let body = status(&mut bench);
        let row = format!(
            r#"{{"code":"certificate_expires","severity":"{severity}","since_at":null,"subject":null,"text":"{text}"}}"#
        );
        assert!(body.contains(&row), "{row}: {body}");
        assert_eq!(body.contains(&format!(r#""attention":[{row}"#)), severity == "bad", "{body}");
    }
    bench.now.unix = 100;
    assert!(status(&mut bench).contains("The clock of this machine is not set."));
}

#[test]
fn what_the_process_uses_is_counted() {
    let mut bench = bench();
    bench.admin.set_certificate(Certificate { pin: "sha256:00".into(), expires: Some(5) });
    assert_eq!(bench.ask(LOOPBACK, &get("/metrics", "")), 200);
    let body = joined(&bench.text());
    for line in [
        "slime_log_lines_dropped_total{log=\"log\"} 7",
        "slime_tls_certificate_expiry_timestamp_seconds 5",
        "process_cpu_seconds_total 1.234",
        "process_resident_memory_bytes 4096",
        "process_max_fds 1024",
    ] {
        assert!(body.contains(&format!("\n{line}\n")), "{line}: {body}");
    }
    assert!(!body.contains("process_open_fds"), "{body}");
}
