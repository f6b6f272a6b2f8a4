//! Who answers late is there; only who says nothing at all is silent.

use super::*;

#[test]
fn a_host_that_answers_slowly_is_not_a_silent_one() {
    local(async {
        let mesh = TestMesh::new();
        let (client, host) = pair(&mesh).await;
        assert_eq!(call(&client, &host, b"warm").await, b"warm");
        let mut held = open(&client, &host, "hold").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.write_all(b"asked").await.unwrap();
        let lane = held.lane();
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!lane.is_stalled(), "it is asked, and answers, while its instance thinks");
        }
    });
}
