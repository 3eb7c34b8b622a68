//! The AppArmor profile of containers that name none: its name and its text.
//!
//! The text stands by itself, without the distribution's includes: those differ, and may be missing.
//! It names no ABI, so that every parser since 2.9 takes it and newer kinds of mediation stay off.

/// Name of the built-in profile: CRI-O's, since policies and tests name it.
pub const DEFAULT_NAME: &str = "crio-default";

/// Its text, for `apparmor_parser(8)`.
pub const DEFAULT_PROFILE: &str = include_str!("apparmor/crio-default");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_one_profile_of_that_name() {
        let heads: Vec<_> = DEFAULT_PROFILE
            .lines()
            .filter(|line| line.starts_with("profile "))
            .collect();
        assert_eq!(
            heads,
            [format!(
                "profile {DEFAULT_NAME} flags=(attach_disconnected,mediate_deleted) {{"
            )]
        );
        let rules = DEFAULT_PROFILE.lines().map(str::trim);
        let rules = rules.filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
        for rule in rules.filter(|rule| !rule.starts_with("profile ")) {
            assert!(rule.ends_with(','), "{rule}");
        }
    }
}
