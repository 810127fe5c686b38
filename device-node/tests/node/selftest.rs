//! What `selftest` makes of a controller's answer.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Controller, Node, TestCa, sim};
use flotilla_device_node::selftest::{Check, Verdict, controllers};
use flotilla_protocol::id::Epoch;
use flotilla_protocol::wire::{DeviceInfo, Down, Hello, PROTOCOL, Refusal};

/// The checks of a device to which its controller says `answer`; `None` stands for a welcome.
async fn checked(answer: Option<Down>) -> Vec<Check> {
    let controller = Controller::start(&Arc::new(TestCa::new()));
    let node = Node::enrolled(&controller, Duration::ZERO).await;
    let identity = node.store.load().expect("the identity can be read").expect("it is enrolled");
    let info = DeviceInfo::default();
    let hello = Hello { protocol: PROTOCOL, info, device_ms: 0, window: 1, epoch_seen: Epoch(0), sims: vec![sim()] };
    let controller_side = async {
        let (mut peer, hello) = controller.link().await;
        assert_eq!(hello.sims, [sim()], "the controller believes this inventory");
        peer.send(&answer.unwrap_or_else(|| Down::Welcome(controller.greeting(&hello)))).await;
        peer.gone().await;
    };
    tokio::join!(controllers(&identity, &hello), controller_side).0
}

#[tokio::test]
async fn only_a_welcome_is_good_news() {
    assert!(matches!(&checked(None).await[..], [Check { verdict: Verdict::Ok, .. }]));
    let revoked = checked(Some(Down::Refused { reason: Refusal::Revoked, detail: "by its owner".into() })).await;
    assert!(matches!(&revoked[..], [Check { verdict: Verdict::Failed, detail, .. }] if detail.contains("Revoked")));
    // One that is busy would do, if another one had welcomed the device.
    let busy = checked(Some(Down::Refused { reason: Refusal::Busy, detail: String::new() })).await;
    assert!(matches!(&busy[..], [Check { verdict: Verdict::Failed, .. }]));
}
