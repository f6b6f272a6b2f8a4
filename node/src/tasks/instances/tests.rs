//! Files, announcements and what becomes of them.

use super::folder::Folder;

fn write(folder: &std::path::Path, file: &str, text: &str) {
    crate::files::replace(&folder.join(file), text.as_bytes(), 0o644).unwrap();
}

fn instance(name: &str, port: u16) -> String {
    format!("[[instance]]\nservice = \"{name}\"\nprotocol = \"http\"\naddress = \"127.0.0.1:{port}\"\n")
}

fn names(folder: &Folder) -> Vec<String> {
    folder.instances().map(|(spec, _)| format!("{}@{}", spec.name, spec.address.port())).collect()
}

#[test]
fn a_bad_version_keeps_the_last_good_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services.d");
    let mut folder = Folder::new(&path);
    folder.read();
    assert!(names(&folder).is_empty() && folder.problems().is_empty(), "a missing folder offers nothing");

    std::fs::create_dir(&path).unwrap();
    write(&path, "web.toml", &instance("web", 8080));
    write(&path, "orders.toml", &instance("orders", 8081));
    write(&path, ".orders.toml.swp", "not read");
    write(&path, "notes.txt", "not read");
    folder.read();
    assert_eq!(names(&folder), ["orders@8081", "web@8080"]);

    write(&path, "web.toml", "[[instance]]\nservise = \"web\"\n");
    folder.read();
    assert_eq!(names(&folder), ["orders@8081", "web@8080"]);
    let problems = folder.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("web.toml:2:1"), "{}", problems[0]);

    write(&path, "web.toml", &instance("web", 9090));
    folder.read();
    assert_eq!(names(&folder), ["orders@8081", "web@9090"]);
    assert!(folder.problems().is_empty());

    std::fs::remove_file(path.join("orders.toml")).unwrap();
    folder.read();
    assert_eq!(names(&folder), ["web@9090"]);
}

#[test]
fn a_new_bad_file_announces_nothing_and_harms_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = Folder::new(directory.path());
    write(directory.path(), "a.toml", &instance("web", 8080));
    write(directory.path(), "b.toml", "garbage \u{0} [[");
    write(directory.path(), "c.toml", &instance("web", 8081));
    folder.read();
    assert_eq!(names(&folder), ["web@8080"], "of two instances with one name the first file's counts");
    assert_eq!(folder.problems().len(), 2);
}

#[test]
fn an_unreadable_folder_withdraws_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services.d");
    std::fs::create_dir(&path).unwrap();
    write(&path, "web.toml", &instance("web", 8080));
    let mut folder = Folder::new(&path);
    folder.read();
    std::fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    std::fs::write(&path, b"a file in its place").unwrap();
    folder.read();
    assert_eq!(names(&folder), ["web@8080"]);
    assert_eq!(folder.problems().len(), 1);
}
