//! Which requests the same agents can serve.
//!
//! What agents may serve is their *profile*: the scopes and scope paths of their token, and for tunnels that
//! take nothing else the light paths ([`crate::proto::light`]). What a request asks for comes down to the
//! scope that it names and the longest scope path or light path, of those of all profiles, that covers its
//! path: the shorter ones that cover it are beginnings of that one. Requests that agree in both are one
//! *class*: the same profiles serve them. A class knows its profiles and whose idle tunnel comes next among
//! them, so finding a tunnel costs the same with one profile and with thousands.
//!
//! A class comes up when a request asks for it. It is forgotten when nobody waits in it and no profile serves
//! it, or when there are very many.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use slab::Slab;

use super::tournament::Tournament;
use crate::proto::http1::path;

/// Classes that may be kept although nobody waits in them. Applications can ask for as many as there are
/// pairs of a scope and a scope path, and a class only saves the time to find its profiles again.
const MAX_UNUSED: usize = 1024;

/// What an agent's token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProfileId(u32);

/// A class, valid until the end of the turn, and for as long as anybody waits in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassId(u32);

impl ProfileId {
    /// The saturation is never reached: so many profiles do not fit any memory that this runs on.
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ClassId {
    /// As [`ProfileId::new`].
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// All classes that anybody asked for.
#[derive(Debug, Default)]
pub(super) struct Classes {
    classes: Slab<Class>,
    by_scope: BTreeMap<Box<str>, ByRule>,
    /// The class of requests that name no scope where no profile has scope paths, so that a hub that knows
    /// neither searches nothing.
    plain: Option<ClassId>,
    /// The scope paths and light paths of all profiles, without a slash at their end, each with the number of
    /// profiles that have it.
    rules: BTreeMap<Box<str>, usize>,
    /// No rule is longer.
    longest_rule: usize,
    /// The classes of each profile, and its place among the members there.
    memberships: Vec<Vec<(ClassId, usize)>>,
    /// Classes whose idle tunnels or members changed since somebody asked.
    changed: Vec<ClassId>,
    /// Classes that may have nobody left.
    deserted: Vec<ClassId>,
    /// How many classes were in use when the unused ones were last forgotten.
    used: usize,
}

/// The classes of one scope, by their longest rule.
#[derive(Debug, Default)]
struct ByRule {
    without: Option<ClassId>,
    with: BTreeMap<Box<str>, ClassId>,
}

#[derive(Debug)]
struct Class {
    scope: Box<str>,
    rule: Option<Box<str>>,
    members: Vec<ProfileId>,
    /// The turn of each member's next idle tunnel.
    turns: Tournament,
    has_changed: bool,
}

/// What a profile allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights<'a> {
    pub(super) scopes: &'a [String],
    /// Scope paths. Any path, if there are none.
    pub(super) paths: &'a [String],
    /// Light paths: of those only these. All, if there are none.
    pub(super) light: &'a [String],
}

/// A profile, for a class that is new.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) profile: ProfileId,
    pub(super) rights: Rights<'a>,
    /// The turn of its next idle tunnel.
    pub(super) turn: Option<u64>,
}

impl Classes {
    /// The class of a request that names this scope, or none (""), and has this path. A path that upstreams
    /// may read differently is "" and matches no scope path. `profiles` are all profiles, for a class that is
    /// new.
    pub(super) fn find<'a>(
        &mut self,
        scope: &str,
        path: &str,
        profiles: impl Iterator<Item = Candidate<'a>>,
    ) -> ClassId {
        if scope.is_empty()
            && self.rules.is_empty()
            && let Some(class) = self.plain
        {
            return class;
        }
        let rule = self.rule_for(path);
        if let Some(by_rule) = self.by_scope.get(scope) {
            let known = match rule {
                Some(rule) => by_rule.with.get(rule).copied(),
                None => by_rule.without,
            };
            if let Some(class) = known {
                return class;
            }
        }
        let rule = rule.map(Into::into);
        self.begin(scope.into(), rule, profiles)
    }

    /// A profile came up. Whether waiters may belong to other classes now.
    pub(super) fn enter(&mut self, profile: ProfileId, rights: Rights<'_>) -> bool {
        if self.memberships.len() <= profile.index() {
            self.memberships.resize_with(profile.index() + 1, Vec::new);
        }
        let mut splits = false;
        for rule in rights.rules() {
            match self.rules.get_mut(rule) {
                Some(count) => *count += 1,
                None => {
                    self.rules.insert(rule.into(), 1);
                    self.longest_rule = self.longest_rule.max(rule.len());
                    splits = true;
                }
            }
        }
        let mut classes = Vec::new();
        for scope in core::iter::once("").chain(rights.scopes.iter().map(String::as_str)) {
            let Some(by_rule) = self.by_scope.get(scope) else { continue };
            let with = by_rule.with.iter().filter(|(rule, _)| rights.cover(Some(rule))).map(|(_, id)| *id);
            classes.extend(by_rule.without.filter(|_| rights.cover(None)).into_iter().chain(with));
        }
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            self.join(class, profile, None);
        }
        splits
    }

    /// A profile went. Its tunnels did before.
    pub(super) fn leave(&mut self, profile: ProfileId, rights: Rights<'_>) {
        for rule in rights.rules() {
            if let Some(count) = self.rules.get_mut(rule) {
                *count -= 1;
                if *count == 0 {
                    self.rules.remove(rule);
                }
            }
        }
        let memberships = self.memberships.get_mut(profile.index()).map(core::mem::take);
        for (id, place) in memberships.unwrap_or_default() {
            let Some(class) = self.classes.get_mut(id.index()) else { continue };
            class.members.swap_remove(place);
            class.turns.swap_remove(place);
            let moved = class.members.get(place).copied();
            if class.members.is_empty() {
                self.deserted.push(id);
            }
            // The last member has its place now.
            let of_moved = moved.and_then(|moved| self.memberships.get_mut(moved.index()));
            if let Some(entry) =
                of_moved.and_then(|entries| entries.iter_mut().find(|(class, _)| *class == id))
            {
                entry.1 = place;
            }
            self.note_change(id);
        }
    }

    /// The turn of a profile's next idle tunnel is another one; `None` if it has no idle tunnel.
    pub(super) fn set_turn(&mut self, profile: ProfileId, turn: Option<u64>) {
        let Some(memberships) = self.memberships.get(profile.index()) else { return };
        for (id, place) in memberships {
            let Some(class) = self.classes.get_mut(id.index()) else { continue };
            class.turns.set(*place, turn);
            if !class.has_changed {
                class.has_changed = true;
                self.changed.push(*id);
            }
        }
    }

    /// The profile of this class whose idle tunnel comes next.
    pub(super) fn first(&self, class: ClassId) -> Option<ProfileId> {
        let class = self.classes.get(class.index())?;
        class.members.get(class.turns.first()?).copied()
    }

    /// The profiles that serve a class.
    pub(super) fn members(&self, class: ClassId) -> &[ProfileId] {
        self.classes.get(class.index()).map_or(&[], |class| &class.members)
    }

    /// A class whose idle tunnels or members have changed. Each is told once for all changes since.
    pub(super) fn pop_changed(&mut self) -> Option<ClassId> {
        let id = self.changed.pop()?;
        if let Some(class) = self.classes.get_mut(id.index()) {
            class.has_changed = false;
        }
        Some(id)
    }

    /// Nobody waits in this class any more.
    pub(super) fn note_empty(&mut self, class: ClassId) {
        if self.members(class).is_empty() {
            self.deserted.push(class);
        }
    }

    /// Forgets classes that are of no use. `is_used` knows in which of them somebody waits.
    pub(super) fn end_batch(&mut self, is_used: impl Fn(ClassId) -> bool) {
        while let Some(class) = self.deserted.pop() {
            if self.members(class).is_empty() && !is_used(class) {
                self.forget(class);
            }
        }
        // Seldom enough that it costs each new class one look at another one.
        if self.classes.len() > 2 * self.used + MAX_UNUSED {
            let all = self.classes.iter().map(|(index, _)| ClassId::new(index));
            let unused: Vec<ClassId> = all.filter(|id| !is_used(*id)).collect();
            for class in unused {
                self.forget(class);
            }
            self.used = self.classes.len();
        }
    }

    /// The longest scope path that covers this path.
    fn rule_for<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.rules.is_empty() {
            return None;
        }
        let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()])
            .take_while(|end| *end <= self.longest_rule)
            .filter_map(|end| path.get(..end))
            .filter(|rule| !path.is_empty() && self.rules.contains_key(*rule))
            .last()
    }

    fn begin<'a>(
        &mut self,
        scope: Box<str>,
        rule: Option<Box<str>>,
        profiles: impl Iterator<Item = Candidate<'a>>,
    ) -> ClassId {
        let class = Class {
            scope: scope.clone(),
            rule: rule.clone(),
            members: Vec::new(),
            turns: Tournament::default(),
            has_changed: false,
        };
        let id = ClassId::new(self.classes.insert(class));
        if scope.is_empty() && rule.is_none() {
            self.plain = Some(id);
        }
        let serving: Vec<(ProfileId, Option<u64>)> = profiles
            .filter(|it| it.rights.have_scope(&scope) && it.rights.cover(rule.as_deref()))
            .map(|it| (it.profile, it.turn))
            .collect();
        let by_rule = self.by_scope.entry(scope).or_default();
        match rule {
            Some(rule) => _ = by_rule.with.insert(rule, id),
            None => by_rule.without = Some(id),
        }
        if serving.is_empty() {
            self.deserted.push(id);
        }
        for (profile, turn) in serving {
            self.join(id, profile, turn);
        }
        id
    }

    fn join(&mut self, id: ClassId, profile: ProfileId, turn: Option<u64>) {
        let Some(class) = self.classes.get_mut(id.index()) else { return };
        let Some(memberships) = self.memberships.get_mut(profile.index()) else { return };
        let place = class.members.len();
        memberships.push((id, place));
        class.members.push(profile);
        class.turns.push();
        class.turns.set(place, turn);
        self.note_change(id);
    }

    fn forget(&mut self, id: ClassId) {
        let Some(class) = self.classes.try_remove(id.index()) else { return };
        if self.plain == Some(id) {
            self.plain = None;
        }
        if let Some(by_rule) = self.by_scope.get_mut(&class.scope) {
            match &class.rule {
                Some(rule) => _ = by_rule.with.remove(rule),
                None => by_rule.without = None,
            }
            if by_rule.without.is_none() && by_rule.with.is_empty() {
                self.by_scope.remove(&class.scope);
            }
        }
        for profile in class.members {
            if let Some(memberships) = self.memberships.get_mut(profile.index()) {
                memberships.retain(|(other, _)| *other != id);
            }
        }
        self.changed.retain(|other| *other != id);
    }

    fn note_change(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(id.index()) else { return };
        if !class.has_changed {
            class.has_changed = true;
            self.changed.push(id);
        }
    }
}

impl<'a> Rights<'a> {
    fn rules(&self) -> impl Iterator<Item = &'a str> {
        self.paths.iter().chain(self.light).map(|path| normal(path))
    }

    fn have_scope(&self, scope: &str) -> bool {
        scope.is_empty() || self.scopes.iter().any(|own| own == scope)
    }

    /// Whether requests are served whose path this rule covers, and no longer one.
    fn cover(&self, rule: Option<&str>) -> bool {
        [self.paths, self.light].into_iter().all(|paths| {
            paths.is_empty() || rule.is_some_and(|rule| paths.iter().any(|path| path::matches(path, rule)))
        })
    }
}

/// A slash at the end of a rule means nothing.
fn normal(rule: &str) -> &str {
    rule.strip_suffix('/').unwrap_or(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Profile {
        scopes: Vec<String>,
        paths: Vec<String>,
        light: Vec<String>,
        turn: Option<u64>,
    }

    impl Profile {
        fn rights(&self) -> Rights<'_> {
            Rights { scopes: &self.scopes, paths: &self.paths, light: &self.light }
        }

        fn serves(&self, scope: &str, request: &str) -> bool {
            let cover = |rules: &[String]| {
                rules.is_empty()
                    || !request.is_empty() && rules.iter().any(|rule| path::matches(rule, request))
            };
            self.rights().have_scope(scope) && cover(&self.paths) && cover(&self.light)
        }
    }

    const SCOPES: [&str; 4] = ["", "a", "b", "unknown"];
    const PATHS: [&str; 8] = ["", "/", "/v1", "/v1/", "/v1/chat", "/v1/chat/x", "/v10", "*"];
    const RULES: [&str; 6] = ["/", "/v1", "/v1/", "/v1/chat", "/v1/chat/x/y", "/v2"];

    fn find(classes: &mut Classes, profiles: &Slab<Profile>, scope: &str, request: &str) -> ClassId {
        let candidates = profiles.iter().map(|(index, it)| Candidate {
            profile: ProfileId::new(index),
            rights: it.rights(),
            turn: it.turn,
        });
        classes.find(scope, request, candidates)
    }

    #[test]
    fn a_class_has_the_profiles_and_the_turn_that_a_search_finds() {
        let (mut classes, mut profiles) = (Classes::default(), Slab::<Profile>::new());
        let mut state = 7_u64;
        let mut draw = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        for round in 0..3_000 {
            match draw(4) {
                0 if profiles.len() < 12 => {
                    let mut some = |all: &[&str], most| {
                        (0..draw(most)).map(|_| all[draw(all.len())].to_owned()).collect::<Vec<_>>()
                    };
                    let profile = Profile {
                        scopes: some(&SCOPES[1..3], 3),
                        paths: some(&RULES, 3),
                        light: some(&RULES, 3),
                        turn: None,
                    };
                    let index = profiles.insert(profile.clone());
                    classes.enter(ProfileId::new(index), profile.rights());
                }
                1 if !profiles.is_empty() => {
                    let at = draw(profiles.len());
                    let index = profiles.iter().nth(at).unwrap().0;
                    classes.set_turn(ProfileId::new(index), None);
                    classes.leave(ProfileId::new(index), profiles.remove(index).rights());
                }
                2 if !profiles.is_empty() => {
                    let at = draw(profiles.len());
                    let (index, profile) = profiles.iter_mut().nth(at).unwrap();
                    profile.turn = (draw(3) > 0).then_some(round);
                    classes.set_turn(ProfileId::new(index), profile.turn);
                }
                _ => classes.end_batch(|class| class.index() % 3 == 0),
            }
            for (scope, request) in SCOPES.iter().flat_map(|scope| PATHS.map(|path| (*scope, path))) {
                let class = find(&mut classes, &profiles, scope, request);
                let mut members: Vec<usize> =
                    classes.members(class).iter().map(|profile| profile.index()).collect();
                members.sort_unstable();
                let serving = profiles.iter().filter(|(_, profile)| profile.serves(scope, request));
                let serving: Vec<(usize, Option<u64>)> =
                    serving.map(|(index, profile)| (index, profile.turn)).collect();
                assert_eq!(members, serving.iter().map(|(index, _)| *index).collect::<Vec<_>>());
                let first = serving.iter().filter_map(|(index, turn)| Some((turn.as_ref()?, *index))).min();
                assert_eq!(classes.first(class).map(ProfileId::index), first.map(|(_, index)| index));
            }
        }
        while let Some((index, _)) = profiles.iter().next() {
            classes.leave(ProfileId::new(index), profiles.remove(index).rights());
        }
        let all: Vec<ClassId> = classes.classes.iter().map(|(index, _)| ClassId::new(index)).collect();
        all.into_iter().for_each(|class| classes.note_empty(class));
        classes.end_batch(|_| false);
        assert!(classes.classes.is_empty() && classes.by_scope.is_empty() && classes.rules.is_empty());
        assert!(classes.plain.is_none() && classes.changed.is_empty());
    }

    #[test]
    fn classes_that_only_applications_name_are_forgotten() {
        let (mut classes, profiles) = (Classes::default(), Slab::<Profile>::new());
        for scope in 0..10_000 {
            find(&mut classes, &profiles, &scope.to_string(), "/");
        }
        classes.end_batch(|class| class.index() == 17);
        assert_eq!(classes.classes.len(), 1);
        classes.note_empty(ClassId::new(17));
        classes.end_batch(|_| false);
        assert!(classes.classes.is_empty() && classes.by_scope.is_empty());
    }

    #[test]
    fn classes_in_which_nobody_waits_are_bounded() {
        let (mut classes, mut profiles) = (Classes::default(), Slab::<Profile>::new());
        let scopes: Vec<String> = (0..10_000).map(|scope| scope.to_string()).collect();
        let profile = Profile { scopes: scopes.clone(), paths: Vec::new(), light: Vec::new(), turn: None };
        let index = profiles.insert(profile.clone());
        classes.enter(ProfileId::new(index), profile.rights());
        for scope in &scopes {
            find(&mut classes, &profiles, scope, "/");
            classes.end_batch(|_| false);
            assert!(classes.classes.len() <= MAX_UNUSED);
        }
        assert_eq!(classes.memberships[index].len(), classes.classes.len());
    }
}
