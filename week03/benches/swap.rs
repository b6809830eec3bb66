//! Measures a load of `swap::Swap`, `epoch::Swap`, other crates and a bare
//! pointer: on one thread, and on two threads while a third one stores.

use std::hint::{black_box, spin_loop};
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hazarc::AtomicArc;
use lab::ratio::{Plan, measure};
use week03::epoch;
use week03::swap::Swap;

criterion_group!(benches, loads, ratios);
criterion_main!(benches);

/// A value of the size of a small configuration.
type Value = [u64; 8];

const VALUE: Value = [1; 8];

/// The number of loads in one measured call.
const LOADS: usize = 10_000;

/// The number of loads of each of two readers. It is large, since starting a
/// thread takes as long as many loads.
const LOADS_TOGETHER: usize = 3_000_000;

/// How many times a writer spins between two stores: some tens of microseconds.
const PAUSE: usize = 1000;

/// Loads the value a given number of times.
type Loads = Box<dyn FnMut(usize) + Send>;

struct Contender {
    name: &'static str,
    reader: Box<dyn Fn() -> Loads>,
    store: Box<dyn Fn() + Send + Sync>,
}

fn repeat(mut load: impl FnMut() -> u64 + Send + 'static) -> Loads {
    Box::new(move |times| {
        for _ in 0..times {
            black_box(load());
        }
    })
}

/// The number of contenders from this crate. They come first.
const OURS: usize = 2;

fn contenders() -> Vec<Contender> {
    let swap = Arc::new(Swap::new(VALUE, 8));
    let epoch = Arc::new(epoch::Swap::new(VALUE));
    let arc_swap = Arc::new(ArcSwap::from_pointee(VALUE));
    let hazarc = Arc::new(AtomicArc::new(Arc::new(VALUE)));
    let lock = Arc::new(RwLock::new(Arc::new(VALUE)));
    // The lower limit: a load of a pointer whose values are never freed.
    let leaked: [&'static Value; 2] =
        [Box::leak(Box::new(VALUE)), Box::leak(Box::new(VALUE))];
    let pointer = Arc::new(AtomicPtr::new(as_pointer(leaked[0])));

    macro_rules! contender {
        ($name:literal, $cell:ident, $reader:expr, $store:expr) => {
            Contender {
                name: $name,
                reader: Box::new({
                    let $cell = Arc::clone(&$cell);
                    move || repeat($reader(Arc::clone(&$cell)))
                }),
                store: Box::new({
                    let $cell = Arc::clone(&$cell);
                    move || $store(&*$cell)
                }),
            }
        };
    }
    vec![
        contender!(
            "Swap",
            swap,
            |swap: Arc<Swap<Value>>| {
                let mut reader = swap.reader().expect("one of eight");
                move || reader.load()[0]
            },
            |swap: &Swap<Value>| swap.store(VALUE)
        ),
        Contender {
            name: "epoch::Swap",
            reader: Box::new({
                let epoch = Arc::clone(&epoch);
                move || {
                    let epoch = Arc::clone(&epoch);
                    // A reader cannot move to another thread.
                    Box::new(move |times| {
                        let reader = epoch.reader();
                        (0..times).for_each(|_| {
                            black_box(reader.load()[0]);
                        });
                    })
                }
            }),
            store: Box::new(move || epoch.store(VALUE)),
        },
        contender!(
            "ArcSwap",
            arc_swap,
            |cell: Arc<ArcSwap<Value>>| move || cell.load()[0],
            |cell: &ArcSwap<Value>| cell.store(Arc::new(VALUE))
        ),
        contender!(
            "arc_swap::Cache",
            arc_swap,
            |cell: Arc<ArcSwap<Value>>| {
                let mut cache = arc_swap::Cache::new(cell);
                move || cache.load()[0]
            },
            |cell: &ArcSwap<Value>| cell.store(Arc::new(VALUE))
        ),
        contender!(
            "hazarc",
            hazarc,
            |cell: Arc<AtomicArc<Value>>| move || cell.load()[0],
            |cell: &AtomicArc<Value>| drop(cell.swap(Arc::new(VALUE)))
        ),
        contender!(
            "hazarc::Cache",
            hazarc,
            |cell: Arc<AtomicArc<Value>>| {
                let mut cache = hazarc::Cache::new(cell);
                move || cache.load()[0]
            },
            |cell: &AtomicArc<Value>| drop(cell.swap(Arc::new(VALUE)))
        ),
        contender!(
            "RwLock<Arc>",
            lock,
            |cell: Arc<RwLock<Arc<Value>>>| move || {
                let value = cell.read().map(|value| Arc::clone(&value));
                value.expect("not poisoned")[0]
            },
            |cell: &RwLock<Arc<Value>>| {
                *cell.write().expect("not poisoned") = Arc::new(VALUE);
            }
        ),
        contender!(
            "a bare pointer",
            pointer,
            // SAFETY: every value that is stored is leaked.
            |cell: Arc<AtomicPtr<Value>>| move || unsafe {
                (*cell.load(Acquire))[0]
            },
            move |cell: &AtomicPtr<Value>| {
                let now = cell.load(Relaxed).cast_const();
                let is_other = |value: &&Value| !ptr::eq(*value, now);
                let other = leaked.into_iter().find(is_other);
                cell.store(as_pointer(other.expect("one of two")), Release);
            }
        ),
    ]
}

fn as_pointer(value: &'static Value) -> *mut Value {
    ptr::from_ref(value).cast_mut()
}

/// Runs two readers while a writer stores.
fn load_while_storing(
    readers: &mut [Loads; 2],
    store: &(dyn Fn() + Send + Sync),
) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                store();
                (0..PAUSE).for_each(|_| spin_loop());
            }
        });
        let [first, second] = readers;
        let second = scope.spawn(|| second(LOADS_TOGETHER));
        first(LOADS_TOGETHER);
        second.join().expect("a reader does not panic");
        done.store(true, Relaxed);
    });
}

fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one thread");
    group.throughput(Throughput::Elements(LOADS as u64));
    for contender in contenders() {
        let mut loads = (contender.reader)();
        group.bench_function(contender.name, |bencher| {
            bencher.iter(|| loads(LOADS));
        });
    }
    group.finish();
}

fn ratios(_: &mut Criterion) {
    let plan = Plan { rounds: 51, sample: Duration::from_millis(20) };
    let contenders = contenders();
    let (ours, peers) = contenders.split_at(OURS);
    for ours in ours {
        for peer in peers {
            let (mut our, mut their) = ((ours.reader)(), (peer.reader)());
            let ratio = measure(plan, || our(LOADS), || their(LOADS));
            println!("one thread: {} / {} = {ratio}", ours.name, peer.name);
        }
        for peer in peers {
            let mut our = [(ours.reader)(), (ours.reader)()];
            let mut their = [(peer.reader)(), (peer.reader)()];
            let ratio = measure(
                plan,
                || load_while_storing(&mut our, &ours.store),
                || load_while_storing(&mut their, &peer.store),
            );
            println!(
                "two readers and a writer: {} / {} = {ratio}",
                ours.name, peer.name
            );
        }
    }
}
