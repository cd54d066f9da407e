//! Where the values of secrets come from.

use std::os::unix::fs::PermissionsExt as _;

use tailkeep::credential::store::{SECRET_BYTES_MAX, SecretStore};
use tailkeep::policy::{Policy, Source};

struct Scene {
    folder: tempfile::TempDir,
    store: SecretStore,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    let store = SecretStore::new(&state);
    Scene { folder, store }
}

impl Scene {
    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What is in a slot of the credential that these lines describe, or why nothing is.
    fn get(&self, kind: &str, lines: &str, slot: &str) -> Result<Vec<u8>, String> {
        let source = Source {
            path: self.folder.path().join("policy.hcl"),
            text: format!("credential \"{kind}\" \"c\" {{\n{lines}\n}}\n"),
        };
        let policy = match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
            Ok(policy) => policy,
            Err(errors) => panic!("{errors}"),
        };
        let credential = &policy.model().credentials[0];
        let secret = self.store.get(credential, slot);
        secret
            .map(|secret| secret.expose().to_vec())
            .map_err(|missing| missing.to_string())
    }
}

#[test]
fn a_secret_comes_from_where_the_credential_says() {
    let scene = scene();
    scene.write("token", b"of-the-file\n");
    scene.write("key.pem", b"the key");
    let path = std::env::var("PATH").unwrap().into_bytes();
    for kind in [
        "bearer_token",
        "header_token",
        "basic_auth",
        "cookie_token",
        "query_token",
        "postgres_credential",
    ] {
        let fixed = match kind {
            "header_token" => "header = \"x\"\n",
            "cookie_token" => "cookie_name = \"x\"\n",
            "query_token" => "parameter = \"x\"\n",
            _ => "",
        };
        let get = |lines: &str| scene.get(kind, &format!("{fixed}{lines}"), "");
        assert_eq!(get("secret = file(\"token\")").unwrap(), b"of-the-file", "{kind}");
        assert_eq!(get("secret = env(\"PATH\")").unwrap(), path, "{kind}");
        let wrong = get("secret = env(\"TAILKEEP_TEST_UNSET\")").unwrap_err();
        assert!(
            wrong.contains("TAILKEEP_TEST_UNSET is not set"),
            "{kind}: {wrong}"
        );
        let wrong = get("secret = vault(\"kv/c#v\")").unwrap_err();
        assert!(wrong.contains("is not available"), "{kind}: {wrong}");
    }
    scene
        .store
        .set("c", "cert", b"the certificate of the store")
        .unwrap();
    let lines = "secrets {\nkey = file(\"key.pem\")\n}";
    for (slot, want) in [
        ("cert", b"the certificate of the store".as_slice()),
        ("key", b"the key".as_slice()),
    ] {
        assert_eq!(scene.get("mtls_credential", lines, slot).unwrap(), want, "{slot}");
    }
    let lines = "secrets {\ncert = file(\"key.pem\")\n}";
    assert_eq!(scene.get("mtls_credential", lines, "cert").unwrap(), b"the key");
    // What is not said comes from the store.
    scene.store.set("c", "", b"of-the-store").unwrap();
    assert_eq!(scene.get("bearer_token", "", "").unwrap(), b"of-the-store");
}

#[test]
fn a_secret_has_a_size() {
    let scene = scene();
    let most = vec![b'x'; usize::try_from(SECRET_BYTES_MAX).unwrap()];
    let more = [most.as_slice(), b"x"].concat();
    let from_file = |bytes: &[u8]| {
        scene.write("large", bytes);
        scene.get("bearer_token", "secret = file(\"large\")", "")
    };
    assert_eq!(from_file(&most).unwrap(), most);
    assert!(from_file(&more).is_err(), "one byte more");
    scene.store.set("c", "", &most).unwrap();
    assert_eq!(scene.get("bearer_token", "", "").unwrap(), most);
    assert!(scene.store.set("c", "", &more).is_err(), "one byte more");
    assert_eq!(scene.get("bearer_token", "", "").unwrap(), most, "as it was");
}
