//! Chinese captions.

use crate::attributes::{Attributes, Background, Colour, Motion, Shape};
use crate::random::Random;

/// Sentences; a word in capitals stands for a choice.
pub(super) const TEMPLATES: [&str; 4] = [
    "一个COLOUR的SHAPE在BACKGROUND背景上MOTION",
    "BACKGROUND背景中一个COLOUR的SHAPE MOTION",
    "COLOUR的SHAPE在BACKGROUND的背景前MOTION",
    "在BACKGROUND的背景上MOTION的COLOUR SHAPE",
];

fn shapes(shape: Shape) -> &'static [&'static str] {
    match shape {
        Shape::Circle => &["圆形", "球", "圆"],
        Shape::Square => &["方形"],
        Shape::Triangle => &["三角形"],
        Shape::Star => &["星形", "星星"],
    }
}

fn colours(colour: Colour) -> &'static [&'static str] {
    match colour {
        Colour::Red => &["红色"],
        Colour::Green => &["绿色"],
        Colour::Blue => &["蓝色"],
        Colour::Yellow => &["黄色"],
        Colour::Purple => &["紫色"],
        Colour::Orange => &["橙色"],
    }
}

fn backgrounds(background: Background) -> &'static [&'static str] {
    match background {
        Background::Black => &["黑色"],
        Background::White => &["白色"],
        Background::Gray => &["灰色"],
        Background::Cyan => &["青色"],
    }
}

fn motions(motion: Motion) -> &'static [&'static str] {
    match motion {
        Motion::Left => &["向左移动", "左移"],
        Motion::Right => &["向右移动", "右移"],
        Motion::Up => &["向上移动", "上移"],
        Motion::Down => &["向下移动", "下移"],
        Motion::Still => &["静止", "静止着"],
        Motion::Grow => &["变大"],
        Motion::Shrink => &["变小"],
        Motion::Orbit => &["绕圈", "绕圈移动"],
    }
}

/// The caption of one template.
pub(super) fn write(attributes: &Attributes, template: usize, random: &mut Random) -> String {
    TEMPLATES[template]
        .replace("BACKGROUND", random.pick(backgrounds(attributes.background)))
        .replace("COLOUR", random.pick(colours(attributes.colour)))
        .replace("SHAPE", random.pick(shapes(attributes.shape)))
        .replace("MOTION", random.pick(motions(attributes.motion)))
        .replace(' ', "")
}

/// Whatever a caption may hold.
pub(super) fn phrases() -> impl Iterator<Item = &'static str> {
    let fixed = TEMPLATES.into_iter().flat_map(|template| template.split(|letter: char| letter.is_ascii()));
    fixed
        .chain(Shape::ALL.into_iter().flat_map(|shape| shapes(shape).iter().copied()))
        .chain(Colour::ALL.into_iter().flat_map(|colour| colours(colour).iter().copied()))
        .chain(Background::ALL.into_iter().flat_map(|background| backgrounds(background).iter().copied()))
        .chain(Motion::ALL.into_iter().flat_map(|motion| motions(motion).iter().copied()))
}
