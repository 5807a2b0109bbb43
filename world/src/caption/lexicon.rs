//! What words mean. The parser knows more words than captions use, because people write prompts.

use crate::attributes::{Background, Colour, Motion, Shape};

/// A word's part in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Names the shape; a colour just before it is the shape's.
    Shape(Shape),
    /// A colour that shapes have.
    Colour(Colour),
    /// A colour that backgrounds have.
    Background(Background),
    /// Something that has the background's colour, which stands just before it.
    Ground,
    /// Says or helps to say how the shape moves.
    Motion(Motion),
    /// Says nothing of an attribute.
    Joins,
}

use Meaning::{Ground, Joins, Motion as Moves, Shape as Is};

/// English words and phrases; the longest that fits is meant.
const ENGLISH: &[(Meaning, &str)] = &[
    (Moves(Motion::Orbit), "in a circle"),
    (Moves(Motion::Orbit), "in circles"),
    (Moves(Motion::Shrink), "grows smaller"),
    (Moves(Motion::Shrink), "growing smaller"),
    (Is(Shape::Circle), "circle,ball,disc,disk"),
    (Is(Shape::Square), "square,box,block"),
    (Is(Shape::Triangle), "triangle"),
    (Is(Shape::Star), "star"),
    (Meaning::Colour(Colour::Red), "red,crimson,scarlet"),
    (Meaning::Colour(Colour::Green), "green,emerald"),
    (Meaning::Colour(Colour::Blue), "blue,azure"),
    (Meaning::Colour(Colour::Yellow), "yellow,golden"),
    (Meaning::Colour(Colour::Purple), "purple,violet"),
    (Meaning::Colour(Colour::Orange), "orange"),
    (Meaning::Background(Background::Black), "black"),
    (Meaning::Background(Background::White), "white"),
    (Meaning::Background(Background::Gray), "gray,grey"),
    (Meaning::Background(Background::Cyan), "cyan"),
    (Ground, "background,backdrop,ground,floor,canvas,screen,field,scene"),
    (Moves(Motion::Left), "left,leftward,leftwards"),
    (Moves(Motion::Right), "right,rightward,rightwards"),
    (Moves(Motion::Up), "up,upward,upwards,rises,rising"),
    (Moves(Motion::Down), "down,downward,downwards,falls,falling"),
    (Moves(Motion::Still), "still,rests,resting,steady,motionless"),
    (Moves(Motion::Grow), "grows,growing,expands,expanding,bigger,larger"),
    (Moves(Motion::Shrink), "shrinks,shrinking,contracts,contracting,smaller"),
    (Moves(Motion::Orbit), "orbits,orbiting,circles,circling,around,loop"),
    (Joins, "a,an,the,on,in,at,of,and,with,to,its,it,is,over,against,there,that,which,shape,colour,color,colored,coloured"),
    (Joins, "moves,moving,slides,sliding,drifts,drifting,glides,gliding,travels,goes,flies,turns,stays,becomes,gets"),
    (Joins, "video,clip,shows,showing"),
];

/// Chinese words; the longest that fits is meant.
const CHINESE: &[(Meaning, &str)] = &[
    (Ground, "背景"),
    (Is(Shape::Circle), "圆形,球,圆"),
    (Is(Shape::Square), "正方形,方形,方块"),
    (Is(Shape::Triangle), "三角形,三角"),
    (Is(Shape::Star), "五角星,星形,星星,星"),
    (Meaning::Colour(Colour::Red), "红色的,红色,红"),
    (Meaning::Colour(Colour::Green), "绿色的,绿色,绿"),
    (Meaning::Colour(Colour::Blue), "蓝色的,蓝色,蓝"),
    (Meaning::Colour(Colour::Yellow), "黄色的,黄色,黄"),
    (Meaning::Colour(Colour::Purple), "紫色的,紫色,紫"),
    (Meaning::Colour(Colour::Orange), "橙色的,橙色,橙"),
    (Meaning::Background(Background::Black), "黑色的,黑色,黑"),
    (Meaning::Background(Background::White), "白色的,白色,白"),
    (Meaning::Background(Background::Gray), "灰色的,灰色,灰"),
    (Meaning::Background(Background::Cyan), "青色的,青色,青"),
    (Moves(Motion::Left), "向左移动,向左,左移"),
    (Moves(Motion::Right), "向右移动,向右,右移"),
    (Moves(Motion::Up), "向上移动,向上,上移"),
    (Moves(Motion::Down), "向下移动,向下,下移"),
    (Moves(Motion::Still), "静止不动,静止"),
    (Moves(Motion::Grow), "变大"),
    (Moves(Motion::Shrink), "变小"),
    (Moves(Motion::Orbit), "绕圈移动,绕圈"),
    (Joins, "一个,的,在,上,中,前,是,着,有,里"),
];

/// What the longest phrase at the start of `words` means, and how many words it has.
pub(super) fn english(words: &[String]) -> Option<(Meaning, usize)> {
    let found = entries(ENGLISH).filter_map(|(meaning, phrase)| {
        let count = phrase.split(' ').count();
        let starts = words.len() >= count && phrase.split(' ').zip(words).all(|(want, word)| want == word);
        starts.then_some((meaning, count))
    });
    longest(found)
}

/// What the longest word at the start of `text` means, and how many bytes it has.
pub(super) fn chinese(text: &str) -> Option<(Meaning, usize)> {
    longest(entries(CHINESE).filter(|(_, word)| text.starts_with(word)).map(|(meaning, word)| (meaning, word.len())))
}

/// The first of the longest.
fn longest(found: impl Iterator<Item = (Meaning, usize)>) -> Option<(Meaning, usize)> {
    found.fold(None, |best, next| if best.is_none_or(|(_, len)| next.1 > len) { Some(next) } else { best })
}

fn entries(table: &'static [(Meaning, &'static str)]) -> impl Iterator<Item = (Meaning, &'static str)> {
    table.iter().flat_map(|(meaning, list)| list.split(',').map(|phrase| (*meaning, phrase)))
}
