//! Whether a key could make a signature at that time, and still counts.
//!
//! A key's expiry, use and revocation stand in signatures that it makes over itself (RFC 9580, 10.1);
//! of several the newest counts. A revocation counts for ever, whatever its reason and date: as with
//! GnuPG, since whoever has a stolen key sets dates as they like.

use pgp::composed::{SignedPublicKey, SignedPublicSubKey};
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag};

use crate::time::Now;

/// Adds what another copy of the same key says: a revocation in one counts for both.
pub(super) fn merge(key: &mut SignedPublicKey, other: SignedPublicKey) {
    let (own, more) = (&mut key.details, other.details);
    own.revocation_signatures.extend(more.revocation_signatures);
    own.direct_signatures.extend(more.direct_signatures);
    for user in more.users {
        match own.users.iter_mut().find(|known| known.id == user.id) {
            Some(known) => known.signatures.extend(user.signatures),
            None => own.users.push(user),
        }
    }
    for subkey in other.public_subkeys {
        let mut known = key.public_subkeys.iter_mut();
        match known.find(|known| known.key == subkey.key) {
            Some(known) => known.signatures.extend(subkey.signatures),
            None => key.public_subkeys.push(subkey),
        }
    }
}

/// Checks the primary key as the one that signed at `made`.
pub(super) fn check_primary(key: &SignedPublicKey, made: Now, now: Now) -> Result<(), String> {
    let newest = check_valid(key, now)?;
    if forbids_signing(newest) {
        return Err(format!("key {} is not for signing", name(key)));
    }
    check_time(&key.primary_key, made, now)
}

/// Checks a subkey as the one that signed at `made`, and the key that it belongs to.
pub(super) fn check_subkey(
    key: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    made: Now,
    now: Now,
) -> Result<(), String> {
    check_valid(key, now)?;
    let own = |kind| {
        subkey.signatures.iter().filter(move |signature| {
            signature.typ() == Some(kind)
                && signature
                    .verify_subkey_binding(&key.primary_key, &subkey.key)
                    .is_ok()
        })
    };
    let id = subkey.key.legacy_key_id();
    if own(SignatureType::SubkeyRevocation).next().is_some() {
        return Err(format!("subkey {id} of key {} is revoked", name(key)));
    }
    let bindings: Vec<_> = own(SignatureType::SubkeyBinding).collect();
    let newest = newest(&bindings)
        .ok_or_else(|| format!("subkey {id} does not belong to key {}", name(key)))?;
    // A key for signing has to agree that it is bound (RFC 9580, 5.2.1.7), or somebody could
    // present another's key as their own.
    let agrees = newest.embedded_signature().is_some_and(|back| {
        back.verify_primary_key_binding(&subkey.key, &key.primary_key)
            .is_ok()
    });
    if !newest.key_flags().sign() || !agrees {
        return Err(format!(
            "subkey {id} of key {} is not for signing",
            name(key)
        ));
    }
    if has_expired(&subkey.key, newest, now) {
        return Err(format!("subkey {id} of key {} has expired", name(key)));
    }
    check_time(&subkey.key, made, now)
}

/// Checks that a key is its owner's, not expired and not revoked; returns the newest signature that
/// it made over itself.
fn check_valid(key: &SignedPublicKey, now: Now) -> Result<&Signature, String> {
    let primary = &key.primary_key;
    let own_key = |signature: &&Signature| signature.verify_key(primary).is_ok();
    if key
        .details
        .revocation_signatures
        .iter()
        .any(|one| own_key(&one))
    {
        return Err(format!("key {} is revoked", name(key)));
    }
    let mut own: Vec<&Signature> = key
        .details
        .direct_signatures
        .iter()
        .filter(own_key)
        .collect();
    for user in &key.details.users {
        let by_key = user.signatures.iter().filter(|signature| {
            signature
                .verify_certification(primary, Tag::UserId, &user.id)
                .is_ok()
        });
        let by_key: Vec<_> = by_key.collect();
        let revokes = |one: &&&Signature| one.typ() == Some(SignatureType::CertRevocation);
        let revoked = by_key
            .iter()
            .filter(revokes)
            .filter_map(|one| one.created())
            .max();
        let certifies = by_key.iter().filter(|one| !revokes(one));
        own.extend(
            certifies.filter(|one| revoked.is_none_or(|revoked| one.created() > Some(revoked))),
        );
    }
    let newest = newest(&own)
        .ok_or_else(|| format!("key {} has no valid signature of its own", name(key)))?;
    if has_expired(primary, newest, now) {
        return Err(format!("key {} has expired", name(key)));
    }
    Ok(newest)
}

/// Of those of the same second, the one that expires first.
fn newest<'a>(signatures: &[&'a Signature]) -> Option<&'a Signature> {
    let lasts = |one: &Signature| match one.key_expiration_time() {
        Some(lasts) if lasts.as_secs() != 0 => lasts.as_secs(),
        _ => u32::MAX,
    };
    let dated = signatures
        .iter()
        .copied()
        .filter(|one| one.created().is_some());
    dated.max_by_key(|one| (one.created(), std::cmp::Reverse(lasts(one))))
}

fn has_expired(key: &impl KeyDetails, of: &Signature, now: Now) -> bool {
    let lasts = of.key_expiration_time().map_or(0, |lasts| lasts.as_secs());
    let end = u64::from(key.created_at().as_secs()) + u64::from(lasts);
    lasts != 0 && now.0 >= end
}

/// Where no use is named, any is meant (RFC 4880, 5.2.3.21).
fn forbids_signing(own: &Signature) -> bool {
    let flags = own.key_flags();
    let named = flags.certify()
        || flags.encrypt_comms()
        || flags.encrypt_storage()
        || flags.authentication();
    named && !flags.sign()
}

fn check_time(key: &impl KeyDetails, made: Now, now: Now) -> Result<(), String> {
    let created = u64::from(key.created_at().as_secs());
    if created > made.0 || created > now.0 {
        let id = key.legacy_key_id();
        return Err(format!(
            "key {id} is younger than its signature, or not made yet"
        ));
    }
    Ok(())
}

fn name(key: &SignedPublicKey) -> String {
    key.primary_key.fingerprint().to_string()
}
