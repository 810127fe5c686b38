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

impl Sleeper {
    /// Enrolled, connected, and asleep.
    async fn new(world: &World) -> (DeviceId, Self) {
        let identity = world.device().await;
        let (device, at) = (identity.device, world.address());
        let asleep = spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let (link, _) = runtime.block_on(LinkClient::up(at, &identity));
            Self { runtime, link }
        });
        (device, asleep.await.unwrap())
    }

    /// Awake until the next frame has come.
    async fn hear(mut self) -> (Self, Option<Down>) {
        let awake = spawn_blocking(move || {
            let heard = self.runtime.block_on(async { self.link.hear().await });
            (self, heard)
        });
        awake.await.unwrap()
    }
}

#[tokio::test]
async fn a_device_that_hears_nothing_gets_no_work_until_it_wakes() {
    let world = World::new().await;
    let (device, sleeper) = Sleeper::new(&world).await;
    let session = world.gateway.session(device).unwrap().session;
    world.notes.sink(session).send(vec![Down::AckReports { position: 1 }]);
    accepts_work(&world, device, false).await;

    let (sleeper, heard) = sleeper.hear().await;
    assert_eq!(heard, Some(Down::AckReports { position: 1 }), "it was not cut off");
    accepts_work(&world, device, true).await;
    sleeper.runtime.shutdown_background();
}

/// Everything that was written to it has arrived, and nothing else is due: its window is full.
#[tokio::test]
async fn a_device_that_falls_asleep_at_work_is_noticed_without_a_further_frame() {
    let world = World::new().await;
    let (device, sleeper) = Sleeper::new(&world).await;
    let session = world.gateway.session(device).unwrap().session;
    let work = Down::Go { attempts: [].into_iter().collect(), sent_ms: 0, send_within_ms: 60_000 };
    world.notes.sink(session).send(vec![work.clone()]);
    let (sleeper, heard) = sleeper.hear().await;
    assert_eq!(heard, Some(work));
    accepts_work(&world, device, false).await;
    sleeper.runtime.shutdown_background();
}
