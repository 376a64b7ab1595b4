//! Somebody who is signed in to the pages: follows links and sends the forms that the pages have.

use crate::api_stage::ApiStage;
use crate::browser::Browser;
use crate::http::Answer;

/// A session of a key.
pub struct Visitor(Browser);

/// A page that was read.
pub struct Page {
    pub status: u16,
    pub text: String,
    pub location: Option<String>,
    answer: Answer,
}

impl Visitor {
    /// Signs in with the secret of a key.
    pub async fn sign_in(stage: &ApiStage, key: &str) -> Self {
        Self(Browser::signed_in(stage.address, key).await)
    }

    /// Opens a sign-in link.
    pub async fn open_link(stage: &ApiStage, url: &str) -> Self {
        let mut browser = Browser::at(stage.address);
        let answer = browser.open_link(url).await;
        assert_eq!(answer.status, 303, "{answer}");
        Self(browser)
    }

    /// A page.
    pub async fn get(&self, path: &str) -> Page {
        Page::of(self.0.get(path).await)
    }

    /// A page that must be there.
    #[track_caller]
    pub fn expect(page: Page) -> Page {
        assert_eq!(page.status, 200, "{}", page.text);
        page
    }

    /// Sends the form of a page that has a button with this value of `do`, as a browser does: with everything that is
    /// in it, but for fields that are named here.
    pub async fn submit(&self, page: &Page, action: &str, typed: &[(&str, &str)]) -> Page {
        let form = page.form(action);
        let mut fields = Vec::new();
        if typed.iter().all(|(name, _)| *name != "do") {
            fields.push(("do".to_owned(), action.to_owned()));
        }
        fields.extend(
            fields_of(form).into_iter().filter(|(name, _)| typed.iter().all(|(typed, _)| typed != name)),
        );
        fields.extend(typed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let to = attribute(form, "action");
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Page::of(self.0.post_as_is(&to, &fields).await)
    }

    /// The page that a form leads to.
    pub async fn follow(&self, page: &Page) -> Page {
        assert_eq!(page.status, 303, "{}", page.text);
        self.get(page.location.as_deref().unwrap()).await
    }
}

impl Page {
    fn of(answer: Answer) -> Self {
        let location = answer.header("location").map(str::to_owned);
        let text = String::from_utf8(answer.body.clone()).unwrap();
        Self { status: answer.status, text, location, answer }
    }

    /// A header of its answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.header(name)
    }

    /// Panics unless the page has the text.
    #[track_caller]
    pub fn has(&self, text: &str) {
        assert!(self.text.contains(text), "{text} is missing in {}", self.text);
    }

    /// Panics if the page has the text.
    #[track_caller]
    pub fn lacks(&self, text: &str) {
        assert!(!self.text.contains(text), "{text} is in {}", self.text);
    }

    #[track_caller]
    fn form(&self, action: &str) -> &str {
        let button = format!("name=\"do\" value=\"{action}\"");
        let found = self.forms().find(|form| form.contains(&button));
        found.unwrap_or_else(|| panic!("no form does {action} in {}", self.text))
    }

    fn forms(&self) -> impl Iterator<Item = &str> {
        self.text.split("<form").skip(1).filter_map(|rest| rest.split("</form>").next())
    }

    /// The first link of the page that begins so.
    #[track_caller]
    pub fn link(&self, beginning: &str) -> String {
        let found = self.text.split("href=\"").skip(1).find(|rest| rest.starts_with(beginning));
        let found = found.unwrap_or_else(|| panic!("no link begins with {beginning} in {}", self.text));
        unescape(found.split('"').next().unwrap())
    }
}

impl Page {
    /// The address of its frame.
    #[track_caller]
    pub fn link_of_frame(&self) -> String {
        attribute(self.text.split("<iframe").nth(1).expect("a frame"), "src")
    }
}

/// Inputs, ticked boxes, texts, and the chosen option of each choice, which is the first one if the page chooses none.
fn fields_of(form: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for rest in form.match_indices('<').map(|(at, _)| &form[at..]) {
        let tag = rest.split('>').next().unwrap();
        let inside = |end: &str| rest[tag.len() + 1..].split(end).next().unwrap();
        let value = match tag.split(' ').next().unwrap() {
            "<input" if tag.contains("type=\"checkbox\"") && !tag.ends_with(" checked") => continue,
            "<input" => attribute(tag, "value"),
            "<textarea" => {
                let text = inside("</textarea>");
                let text = unescape(text.strip_prefix('\n').unwrap_or(text));
                text.replace("\r\n", "\n").replace('\n', "\r\n")
            }
            "<select" => {
                let options: Vec<_> = inside("</select>").split("<option").skip(1).collect();
                let is_chosen = |option: &&&str| option.split('>').next().unwrap().ends_with(" selected");
                attribute(options.iter().find(is_chosen).unwrap_or(&options[0]), "value")
            }
            _ => continue,
        };
        fields.push((attribute(tag, "name"), value));
    }
    fields
}

fn attribute(tag: &str, name: &str) -> String {
    let begin = format!(" {name}=\"");
    let value = tag.split(&begin).nth(1).and_then(|rest| rest.split('"').next());
    unescape(value.unwrap_or_else(|| panic!("no {name} in {tag}")))
}

pub fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
