//! Client commands outlast a coordinator that is started again and again over the same data.

use crate::harness::plan_request;
use crate::harness::{Program, Served, directory};

/// One more than it would try in a row.
const RESTARTS: usize = 12;

#[test]
fn submit_goes_on_however_often_its_coordinator_is_started_again_as_long_as_it_answers_in_between()
{
    let folder = directory(&[]);
    let data = folder.path().display().to_string();
    let arguments = ["--data-dir", data.as_str(), "--durability", "os"];
    let mut server = Served::start(&arguments);
    server.plan(plan_request("p", &["a"]));
    let mut submit = Program::start(&mut server.client(&["submit", "--plan-id", "p", "--json"]));
    for restart in 0..RESTARTS {
        submit.say(&format!(
            "{{\"id\":\"unknown-{restart}\",\"status\":\"completed\"}}\n"
        ));
        let receipt = submit.stdout.line();
        assert!(
            receipt.starts_with(&format!(
                "{{\"record\":{restart},\"disposition\":\"unmatched\""
            )),
            "{receipt}"
        );
        let address = server.address.clone();
        assert_eq!(server.stop().code, 0);
        server = Served::at(&address, &arguments);
    }
    let said = submit.finish();
    assert_eq!(said.code, 0, "{}", said.stderr);
}
