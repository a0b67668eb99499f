#![allow(clippy::unwrap_used)]
use super::*;

/// A line of the text format without its value, or nothing for comments.
fn series(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn what_is_counted_is_printed() {
    let figures: &'static Metrics = Box::leak(Box::new(Metrics::new()));
    let tenant = figures.tenants.of("acme");
    figures.accepted(&tenant, 3);
    figures.answered(Road::Smtp, Duration::from_millis(2));
    figures.attempted(&tenant, Verdict::Delivered);
    figures.attempted(&tenant, Verdict::Deferred);
    figures.attempted(&tenant, Verdict::Deferred);
    let open = figures.enter(Road::Smtp);
    drop(figures.enter(Road::Http));
    figures.turned_away(Road::Http, Turned::Address);
    figures.committed(7, Some((Some(Duration::from_micros(30)), Duration::from_micros(80))));
    figures.committed(7, None);
    figures.damaged(3);
    figures.told(Some(204));
    figures.told(None);
    figures.stages.called("signer", "0123456789ab", Called::Failed, Duration::from_millis(1));
    let text = figures.render(Depth { queued: 5, disk_free_bytes: Some(1000) });
    for (series, expect) in [
        ("posthaste_messages_accepted_total", 1.0),
        ("posthaste_accept_seconds_count{road=\"smtp\"}", 1.0),
        ("posthaste_accept_seconds_bucket{road=\"smtp\",le=\"0.0025\"}", 1.0),
        ("posthaste_attempts_total{result=\"delivered\"}", 1.0),
        ("posthaste_attempts_total{result=\"deferred\"}", 2.0),
        ("posthaste_tenant_recipients_total{result=\"accepted\",tenant=\"acme\"}", 3.0),
        ("posthaste_tenant_recipients_total{result=\"deferred\",tenant=\"acme\"}", 2.0),
        ("posthaste_connections{protocol=\"smtp\"}", 1.0),
        ("posthaste_connections{protocol=\"http\"}", 0.0),
        ("posthaste_connections_total{protocol=\"http\"}", 1.0),
        ("posthaste_turned_away_total{protocol=\"http\",reason=\"address\"}", 1.0),
        ("posthaste_store_group_rows_sum", 7.0),
        ("posthaste_store_group_failures_total", 1.0),
        ("posthaste_store_damaged_total", 3.0),
        ("posthaste_webhook_attempts_total{result=\"2xx\"}", 1.0),
        ("posthaste_webhook_attempts_total{result=\"no answer\"}", 1.0),
        ("posthaste_queue_recipients", 5.0),
        ("posthaste_disk_free_bytes", 1000.0),
        ("posthaste_stage_call_seconds_count{component=\"0123456789ab\",result=\"failed\",stage=\"signer\"}", 1.0),
    ] {
        assert_eq!(value(&text, series), expect, "{series}");
    }
    assert!(value(&text, "process_resident_memory_bytes") > 1e6 && value(&text, "process_open_fds") >= 1.0);
    drop(open);
    assert_eq!(figures.connections_in[0].get(), 0);
    let failing = figures.stages.failing();
    assert_eq!((failing.len(), failing[0].failed, failing[0].stage.as_str()), (1, 1, "signer"));
    assert!(figures.rates().accepted > 0.0);
}

/// docs/metrics.md names every figure there is, and none that there is not.
#[test]
fn the_page_of_metrics_is_true() {
    let figures = Metrics::new();
    figures.turned_away(Road::Smtp, Turned::Full);
    figures.told(None);
    figures.tenants.of("acme");
    figures.stages.called("signer", "0123456789ab", Called::Answered, Duration::ZERO);
    let text = figures.render(Depth::default());
    let page = include_str!("../../../docs/metrics.md");
    let named: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|rest| rest.split('`').next()).collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let printed: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    for name in &printed {
        assert!(named.contains(name), "docs/metrics.md lacks {name}");
    }
    for name in &named {
        assert!(printed.contains(name), "docs/metrics.md names {name}, which does not exist");
    }
    assert!(series(&text).len() > printed.len());
}
