//! AppArmor: which profile a container gets, and that it is loaded before its runtime asks for it.

use spec::apparmor::{DEFAULT_NAME, DEFAULT_PROFILE};

use crate::request::Profile;
use crate::{ContainerRequest, Error};

/// What the option `apparmor_profile` may say beside a profile's name.
const UNCONFINED: &str = "unconfined";

/// AppArmor on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmor {
    /// The kernel has none, or it is switched off.
    Off,
    /// It is on, and this is for containers that name no profile.
    On(DefaultProfile),
}

/// What containers have that name no profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultProfile {
    /// The built-in profile.
    BuiltIn,
    /// A profile that somebody else loads.
    Named(String),
    /// None, as configured.
    Unconfined,
    /// None, for want of what would load the built-in one.
    NoParser,
}

/// What is to be done for a container.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    /// It gets no profile.
    Nothing,
    /// It gets this one, if that is loaded.
    Loaded(&'a str),
    /// It gets the built-in one.
    BuiltIn,
}

impl AppArmor {
    /// Looks at the kernel and sees to the default profile: `profile` is the option
    /// `apparmor_profile`. Blocks for as long as the built-in one takes to load.
    ///
    /// # Errors
    /// The parser refuses the built-in profile, or the one that is named is not loaded.
    pub fn start(profile: &str) -> Result<Self, Error> {
        if !sys::apparmor::is_enabled() {
            tracing::info!("no AppArmor in this kernel, or it is switched off");
            return Ok(Self::Off);
        }
        Ok(Self::On(match profile {
            UNCONFINED => DefaultProfile::Unconfined,
            "" | DEFAULT_NAME => built_in()?,
            name => {
                must_be_loaded(name)?;
                DefaultProfile::Named(name.to_owned())
            }
        }))
    }

    /// The profile of a container, empty for none. Blocks.
    ///
    /// # Errors
    /// [`Error::Invalid`]: it is not loaded, or there is no AppArmor.
    pub(crate) fn profile_of(&self, request: &ContainerRequest) -> Result<String, Error> {
        match self.choose(&request.apparmor, request.privileged)? {
            Choice::Nothing => Ok(String::new()),
            Choice::Loaded(name) => {
                must_be_loaded(name)?;
                Ok(name.to_owned())
            }
            Choice::BuiltIn => {
                // Somebody may have unloaded it: a restart of AppArmor's service does.
                load_built_in()?;
                Ok(DEFAULT_NAME.to_owned())
            }
        }
    }

    fn choose<'a>(&'a self, asked: &'a Profile, privileged: bool) -> Result<Choice<'a>, Error> {
        let default = match (self, asked) {
            _ if privileged => return Ok(Choice::Nothing),
            (Self::Off, Profile::Localhost(name)) => {
                let text = format!("AppArmor profile {name:?}: AppArmor is not enabled");
                return Err(Error::Invalid(text));
            }
            (Self::Off, _) | (_, Profile::Unconfined) => return Ok(Choice::Nothing),
            // By its name too it is ours to load.
            (Self::On(_), Profile::Localhost(name)) if name == DEFAULT_NAME => {
                return Ok(Choice::BuiltIn);
            }
            (Self::On(_), Profile::Localhost(name)) => return Ok(Choice::Loaded(name)),
            (Self::On(default), Profile::Unset | Profile::RuntimeDefault) => default,
        };
        match default {
            DefaultProfile::BuiltIn => Ok(Choice::BuiltIn),
            DefaultProfile::Named(name) => Ok(Choice::Loaded(name)),
            DefaultProfile::NoParser if *asked == Profile::RuntimeDefault => Err(no_parser()),
            DefaultProfile::Unconfined | DefaultProfile::NoParser => Ok(Choice::Nothing),
        }
    }
}

/// The built-in profile, where it is loaded or can be.
fn built_in() -> Result<DefaultProfile, Error> {
    if sys::apparmor::parser().is_none() && !is_loaded(DEFAULT_NAME)? {
        tracing::warn!(
            "no apparmor_parser: containers that name no AppArmor profile are not confined by one"
        );
        return Ok(DefaultProfile::NoParser);
    }
    load_built_in()?;
    Ok(DefaultProfile::BuiltIn)
}

/// Loads the built-in profile, unless one of its name is loaded: then that is what is wanted.
fn load_built_in() -> Result<(), Error> {
    if is_loaded(DEFAULT_NAME)? {
        return Ok(());
    }
    let parser = sys::apparmor::parser().ok_or_else(no_parser)?;
    let refused = |text| Error::Helper {
        program: "apparmor_parser",
        text,
    };
    let output = sys::apparmor::load(&parser, DEFAULT_PROFILE)
        .map_err(|error| refused(crate::operations::chain(&error)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(refused(format!("{}: {}", output.status, said.trim())));
    }
    tracing::info!(profile = DEFAULT_NAME, "AppArmor profile loaded");
    Ok(())
}

fn is_loaded(name: &str) -> Result<bool, Error> {
    let failed = Error::io("read the profiles of", "AppArmor");
    sys::apparmor::is_loaded(name).map_err(failed)
}

fn must_be_loaded(name: &str) -> Result<(), Error> {
    if is_loaded(name)? {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "AppArmor profile {name:?} is not loaded"
    )))
}

fn no_parser() -> Error {
    Error::Invalid(format!(
        "AppArmor profile {DEFAULT_NAME:?} is not loaded, and there is no apparmor_parser to load it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_which_profile() {
        use Choice::{BuiltIn, Loaded, Nothing};
        let (built_in, off) = (AppArmor::On(DefaultProfile::BuiltIn), AppArmor::Off);
        let named = AppArmor::On(DefaultProfile::Named("own".into()));
        let (none, no_parser) = (
            AppArmor::On(DefaultProfile::Unconfined),
            AppArmor::On(DefaultProfile::NoParser),
        );
        let local = Profile::Localhost("x".into());
        let ours = Profile::Localhost(DEFAULT_NAME.into());
        for (node, asked, privileged, wanted) in [
            (&built_in, Profile::Unset, false, Some(BuiltIn)),
            (&built_in, Profile::RuntimeDefault, false, Some(BuiltIn)),
            (&built_in, Profile::Unconfined, false, Some(Nothing)),
            (&built_in, local.clone(), false, Some(Loaded("x"))),
            (&built_in, Profile::Unset, true, Some(Nothing)),
            (&built_in, local.clone(), true, Some(Nothing)),
            (&named, Profile::Unset, false, Some(Loaded("own"))),
            (&named, Profile::RuntimeDefault, false, Some(Loaded("own"))),
            (&named, ours.clone(), false, Some(BuiltIn)),
            (&none, Profile::RuntimeDefault, false, Some(Nothing)),
            (&none, local.clone(), false, Some(Loaded("x"))),
            (&no_parser, Profile::Unset, false, Some(Nothing)),
            (&no_parser, Profile::RuntimeDefault, false, None),
            (&off, Profile::Unset, false, Some(Nothing)),
            (&off, Profile::RuntimeDefault, false, Some(Nothing)),
            (&off, local.clone(), false, None),
            (&off, local.clone(), true, Some(Nothing)),
        ] {
            let chosen = node.choose(&asked, privileged).ok();
            assert_eq!(chosen, wanted, "{node:?} {asked:?} {privileged}");
        }
    }
}
