//! A device that sleeps: its link is up, and it hears nothing.

use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

use super::client::LinkClient;
use super::*;

/// A device whose tasks run while it is awake only.
struct Sleeper {
    runtime: Runtime,
    link: LinkClient,
}

async fn accepts_work(world: &World, device: DeviceId, expected: bool) {
    let found = |note: &Note| {
        let Note::Changed { device: of, accepts_work, .. } = note else { return None };
        (*of == device && *accepts_work == expected).then_some(())
    };
    world.notes.wait(found).await;
}

#[tokio::test]
async fn a_device_that_hears_nothing_gets_no_work_until_it_wakes() {
    let world = World::new().await;
    let identity = world.device().await;
    let (device, at) = (identity.device, world.address());
    let asleep = spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (link, _) = runtime.block_on(LinkClient::up(at, &identity));
        Sleeper { runtime, link }
    });
    let mut sleeper = asleep.await.unwrap();
    let session = world.gateway.session(device).unwrap().session;
    world.notes.sink(session).send(vec![Down::AckReports { position: 1 }]);
    accepts_work(&world, device, false).await;

    let awake = spawn_blocking(move || {
        let heard = sleeper.runtime.block_on(async { sleeper.link.hear().await });
        (sleeper, heard)
    });
    let (sleeper, heard) = awake.await.unwrap();
    assert_eq!(heard, Some(Down::AckReports { position: 1 }), "it was not cut off");
    accepts_work(&world, device, true).await;
    sleeper.runtime.shutdown_background();
}
