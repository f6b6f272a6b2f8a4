//! `starling demo`: the README's first command.

use crate::agent::starling;

#[test]
fn the_demo_is_ready_at_once_serves_and_leaves_nothing() {
    let output = starling(&["demo", "--exit-after", "6s", "-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    println!("{report}");
    assert_eq!(report["agents"], 3);
    assert!(report["requests"].as_u64().unwrap() > 100, "{report}");
    assert!(report["successRate"].as_f64().unwrap() > 0.999, "{report}");
    assert!(report["readySeconds"].as_f64().unwrap() < 6.0, "{report}");
    for left in ["processes", "files", "ports"] {
        assert_eq!(report["left"][left], 0, "{report}");
    }
}
