//! Sums by which an agent and lars-dns find out whether they agree on the agent's routes, without naming one.
//!
//! A route has a hash of 64 bits ([`route_hash`]), a set of routes the wrapping sum of theirs ([`Digest`]), so it does
//! not matter in which order they come, and one that changes costs a subtraction and an addition. Sets that differ have
//! different sums but in one case of 2⁶⁴. Where sums differ, those of 256 buckets ([`BucketSums`]) tell where to look: a
//! module's bucket follows from its name alone.
//!
//! Both ends must compute the same in every build, for as long as there are agents: nothing here may depend on a seed
//! drawn at random, on the machine, or on another crate's idea of a hash.

use std::num::NonZeroU64;

use crate::{
    HostAddr, ModuleId,
    messages::{self, BucketSumsAnswer, SubscriptionDigest},
};

/// How many buckets there are.
pub const BUCKETS: usize = 256;

/// Modules that one [`BucketSumsAnswer`] may name: as many as are sure to fit a frame.
pub const MODULES_PER_ANSWER_MAX: usize = 4_000;

/// So that module 0/0 and a host 0.0.0.0 are numbers like all others: the finalizer leaves 0 as it is.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a module's route, whatever the order of its hosts, which are distinct.
///
/// Each host is mixed with the module, and the results are summed up: a few instructions per host that do not wait for
/// each other, and nothing has to be sorted. The mixing is MurmurHash3's 64-bit finalizer.
#[must_use]
pub fn route_hash(module: ModuleId, hosts: impl IntoIterator<Item = HostAddr>) -> NonZeroU64 {
    let module = spread(module);
    let hosts = hosts.into_iter().map(|host| mix(module ^ host_word(host)));
    let sum = hosts.fold(module, u64::wrapping_add);
    // 0 would be no trace in a sum.
    NonZeroU64::new(mix(sum)).unwrap_or(NonZeroU64::MAX)
}

/// A number for a module, in whose bits modules spread however their names are given. No two have the same.
#[must_use]
pub const fn spread(module: ModuleId) -> u64 {
    mix(module_word(module) ^ SEED)
}

/// The bucket that a module is in, below [`BUCKETS`].
#[must_use]
pub fn bucket(module: ModuleId) -> usize {
    (spread(module) >> 56) as usize
}

/// The two halves of a module's name as one number, as [`BucketSumsAnswer`] has it.
#[must_use]
pub const fn module_word(module: ModuleId) -> u64 {
    let (modid, cmdid) = module.to_unsigned();
    (modid as u64) << 32 | cmdid as u64
}

/// The reverse of [`module_word`].
#[must_use]
pub const fn module_of_word(word: u64) -> ModuleId {
    ModuleId::from_unsigned((word >> 32) as u32, word as u32)
}

fn host_word(host: HostAddr) -> u64 {
    let (ip, port) = host.to_unsigned();
    u64::from(ip) << 32 | u64::from(port)
}

/// A bijection after which each bit depends on all others: MurmurHash3's `fmix64`.
const fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

/// A set of routes, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many there are.
    pub count: u32,
    /// The wrapping sum of their hashes.
    pub sum: u64,
}

impl Digest {
    /// A route joins the set, in which it was not.
    pub fn add(&mut self, hash: NonZeroU64) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash.get());
    }

    /// A route leaves the set, in which it was.
    pub fn remove(&mut self, hash: NonZeroU64) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash.get());
    }
}

impl From<SubscriptionDigest> for Digest {
    fn from(SubscriptionDigest { count, sum }: SubscriptionDigest) -> Self {
        Self { count, sum }
    }
}

/// A set of routes, summed up by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSums(Box<[u64; BUCKETS]>);

impl Default for BucketSums {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl BucketSums {
    /// A route joins the set, in which it was not.
    pub fn add(&mut self, module: ModuleId, hash: NonZeroU64) {
        let sum = &mut self.0[bucket(module)];
        *sum = sum.wrapping_add(hash.get());
    }

    /// A route leaves the set, in which it was.
    pub fn remove(&mut self, module: ModuleId, hash: NonZeroU64) {
        let sum = &mut self.0[bucket(module)];
        *sum = sum.wrapping_sub(hash.get());
    }

    /// The sum of each bucket.
    #[must_use]
    pub const fn sums(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// The question about all buckets from `first` on.
    #[must_use]
    pub fn question(&self, first: usize) -> messages::BucketSums {
        let sums = self.0.get(first..).unwrap_or_default().to_vec();
        messages::BucketSums { first: first as u32, sums }
    }
}

/// What lars-dns has in the buckets that differ: a [`BucketSumsAnswer`] that was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Buckets from this one on were not looked at.
    pub end: usize,
    /// Those before it that differ.
    pub buckets: Vec<u8>,
    /// Every module in them that lars-dns has a subscription to, and the hash of its route.
    pub modules: Vec<(ModuleId, u64)>,
}

impl Held {
    /// What `answer` says. `None` if it is malformed: not as many hashes as modules, or more buckets than there are.
    #[must_use]
    pub fn from_wire(answer: BucketSumsAnswer) -> Option<Self> {
        let end = usize::try_from(answer.end).ok().filter(|end| *end <= BUCKETS)?;
        if answer.modules.len() != answer.hashes.len() || answer.buckets.len() > BUCKETS {
            return None;
        }
        let modules = answer.modules.into_iter().map(module_of_word).zip(answer.hashes).collect();
        Some(Self { end, buckets: answer.buckets, modules })
    }

    /// The message that says so.
    #[must_use]
    pub fn into_wire(self) -> BucketSumsAnswer {
        let (modules, hashes) =
            self.modules.into_iter().map(|(module, hash)| (module_word(module), hash)).unzip();
        BucketSumsAnswer { end: self.end as u32, buckets: self.buckets, modules, hashes }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::frame::BODY_LEN_MAX;

    fn host(ip: u32, port: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::from_bits(ip), port)
    }

    /// Other builds, on other machines, have computed these.
    #[test]
    fn hashes_are_those_of_every_other_build() {
        let check = |module, hosts: &[HostAddr], hash: u64, of: usize| {
            assert_eq!(
                (route_hash(module, hosts.iter().copied()).get(), bucket(module)),
                (hash, of),
                "{module} {hosts:?}"
            );
        };
        let local = host(0x7f00_0001, 7777);
        check(ModuleId::new(0, 0), &[], 0x6393_d51c_06c6_18dc, 156);
        check(ModuleId::new(1, 1), &[], 0x236a_1247_57a4_154f, 247);
        check(ModuleId::new(1, 1), &[local], 0x6cd6_8988_4aad_5fc6, 247);
        check(ModuleId::new(1, 1), &[local, host(0xc0a8_0001, 80)], 0x9f96_9f18_9e42_0186, 247);
        check(ModuleId::new(-1, i32::MIN), &[host(0xffff_ffff, 65_535)], 0x4144_9ce7_a8c2_34c2, 79);
    }

    #[test]
    fn modules_spread_over_all_buckets() {
        let mut counts = [0; BUCKETS];
        for n in 0..100_000 {
            counts[bucket(ModuleId::new(n / 1_000, n % 1_000))] += 1;
        }
        assert!(counts.iter().all(|count| (250..550).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_longest_answer_fits_a_frame() {
        let modules = (0..MODULES_PER_ANSWER_MAX as i32).map(|n| (ModuleId::new(-n, -n), u64::MAX));
        let held = Held { end: BUCKETS, buckets: (0..=u8::MAX).collect(), modules: modules.collect() };
        let message = held.clone().into_wire();
        assert!(message.encoded_len() <= BODY_LEN_MAX, "{} bytes", message.encoded_len());
        assert_eq!(Held::from_wire(message), Some(held));
    }

    #[test]
    fn an_answer_that_cannot_be_is_malformed() {
        let answer = BucketSumsAnswer { end: 256, modules: vec![1], hashes: vec![1], ..Default::default() };
        assert!(Held::from_wire(answer.clone()).is_some());
        assert_eq!(Held::from_wire(BucketSumsAnswer { end: 257, ..answer.clone() }), None);
        assert_eq!(Held::from_wire(BucketSumsAnswer { hashes: vec![], ..answer.clone() }), None);
        assert_eq!(Held::from_wire(BucketSumsAnswer { buckets: vec![0; 257], ..answer }), None);
    }

    proptest! {
        #[test]
        fn a_hash_depends_on_the_module_and_the_set_of_hosts(
            modid: i32, cmdid: i32, hosts in prop::collection::btree_set((0u32..1_000, 1u16..4), 1..20), turn: usize,
        ) {
            let module = ModuleId::new(modid, cmdid);
            let mut hosts: Vec<_> = hosts.into_iter().map(|(ip, port)| host(ip, port)).collect();
            let hash = route_hash(module, hosts.iter().copied());
            let turned = turn % hosts.len();
            hosts.rotate_left(turned);
            prop_assert_eq!(route_hash(module, hosts.iter().copied()), hash);
            prop_assert_ne!(route_hash(ModuleId::new(cmdid, modid ^ 1), hosts.iter().copied()), hash);
            let last = hosts.pop();
            prop_assert_ne!(route_hash(module, hosts.iter().copied()), hash, "without {:?}", last);
        }

        #[test]
        fn sums_forget_what_has_left(
            stays in prop::collection::vec((any::<u64>(), 1..=u64::MAX), 0..20),
            leaves in prop::collection::vec((any::<u64>(), 1..=u64::MAX), 0..20),
        ) {
            let add = |(digest, buckets): &mut (Digest, BucketSums), routes: &[(u64, u64)]| {
                for &(word, hash) in routes {
                    let hash = NonZeroU64::new(hash).expect("not 0");
                    digest.add(hash);
                    buckets.add(module_of_word(word), hash);
                }
            };
            let mut sums = <(Digest, BucketSums)>::default();
            add(&mut sums, &leaves);
            add(&mut sums, &stays);
            for &(word, hash) in &leaves {
                let hash = NonZeroU64::new(hash).expect("not 0");
                sums.0.remove(hash);
                sums.1.remove(module_of_word(word), hash);
            }
            let mut expected = <(Digest, BucketSums)>::default();
            add(&mut expected, &stays);
            prop_assert_eq!(&sums, &expected);
            prop_assert_eq!(sums.1.sums().iter().fold(0, |sum: u64, one| sum.wrapping_add(*one)), sums.0.sum);
            prop_assert_eq!(stays.len() as u32, sums.0.count);
        }
    }
}
