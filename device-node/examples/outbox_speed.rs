//! What a message costs a device, without the network: machine, outbox and simulated radio of many devices.
//!
//! `cargo run --release --example outbox_speed -- [devices] [messages] [window] [folder]` prints messages per second, CPU time per
//! message and how many messages shared a commit. Each message makes its whole way: arrived, about to send, sent, delivered,
//! acknowledged.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use flotilla_device_node::agent::machine::{Config, Machine, Order};
use flotilla_device_node::clock::{Clock, SystemClock};
use flotilla_device_node::outbox::{DeviceOutbox, Options, Outbox, State};
use flotilla_device_node::radio::Radio;
use flotilla_device_node::radio::simulated::{Setup, SimProfile, SimulatedRadio};
use flotilla_protocol::id::{DeviceId, Epoch, InboundId, MessageId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, Dispatch, ReportKind, Settings, TextEncoding, Up, Welcome};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TEXT: &str = "Your appointment is tomorrow at 10:30. Reply CONFIRM or CANCEL.";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let devices: u64 = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let messages: u64 = arguments.next().map_or(Ok(300_000), |text| text.parse())?;
    // Messages of one device under way at once.
    let window: u64 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let folder = arguments.next().map_or_else(|| PathBuf::from("outbox-speed"), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(devices, messages / devices, window, &folder))?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

async fn measure(devices: u64, each: u64, window: u64, folder: &std::path::Path) -> anyhow::Result<()> {
    let outbox = Outbox::open(folder, Options::fleet())?;
    let (start, cpu) = (Instant::now(), cpu_us());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..devices {
        let id = DeviceId::new(number, [3; 10]);
        let (handle, state) = outbox.device(id).await?;
        let state = state.unwrap_or_else(|| State::new(outbox.limits()));
        tasks.spawn(device(number, id, handle, state, (each, window)));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let total = devices * each;
    let (wall, cpu) = (start.elapsed(), cpu_us() - cpu);
    println!(
        "{total} messages of {devices} devices: {:.0}/s, {:.1} us CPU each, {:.1} to a commit",
        total as f64 / wall.as_secs_f64(),
        cpu as f64 / total as f64,
        total as f64 / outbox.commits() as f64,
    );
    tokio::task::spawn_blocking(move || outbox.close()).await?;
    Ok(())
}

async fn device(
    number: u64,
    id: DeviceId,
    outbox: DeviceOutbox,
    state: State,
    (each, window): (u64, u64),
) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sims = vec![SimProfile::instant()].into();
    let mut radio =
        SimulatedRadio::new(Setup { device: id, first_slot: 0, sims, seed: number, clock: clock.clone(), log: None });
    let mut machine = Machine::fresh(Config::default(), state, radio.sims(), clock.now());
    machine.link_up(&welcome(&*clock), clock.now())?;
    let (mut sent, mut delivered) = (0, 0);
    while delivered < each {
        let now = clock.now();
        while sent < each && sent - delivered < window {
            machine.dispatch(dispatch(number, sent, now.boot_ms), now);
            sent += 1;
        }
        if let Some(records) = machine.take(now) {
            outbox.append(&records)?.await?;
            machine.committed(clock.now());
        }
        while let Some(order) = machine.poll_order() {
            if let Order::Send(job) = order {
                radio.send(job);
            }
        }
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some(event)) = radio.poll_event(&mut context) {
            machine.radio(event, || InboundId::new(0, [0; 10]), now);
        }
        let mut last = 0;
        while let Some(frame) = machine.poll_frame() {
            if let Up::Report(report) = frame {
                last = report.position;
                delivered += u64::from(matches!(report.kind, ReportKind::Delivered { .. }));
            }
        }
        machine.acknowledged(last, now);
    }
    Ok(())
}

fn welcome(clock: &dyn Clock) -> Welcome {
    let now = clock.now().boot_ms;
    Welcome {
        epoch: Epoch(1),
        device_ms: now,
        controller_ms: now,
        sims: Vec::new(),
        settings: Settings::default(),
        controllers: Vec::new(),
    }
}

fn dispatch(device: u64, number: u64, sent_ms: u64) -> Dispatch {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&(device << 32 | number).to_be_bytes());
    Dispatch {
        attempt: Attempt { message: MessageId::new(sent_ms, random), number: 1 },
        epoch: Epoch(1),
        slot: 0,
        to: Msisdn::from_u64(255_700_000_001).unwrap_or_else(|_| unreachable!("twelve digits")),
        body: Body::Text(TEXT.into()),
        encoding: TextEncoding::default(),
        flash: false,
        report: true,
        validity_s: 3600,
        sent_ms,
        send_within_ms: 60_000,
        granted: true,
    }
}

/// CPU time of this process, user and system, in microseconds.
fn cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}
