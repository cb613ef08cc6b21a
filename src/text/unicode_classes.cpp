#include "text/unicode_classes.h"

#include <utf8proc.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace d2q {
namespace {

struct LowerCase {
  char32_t from = 0;
  char32_t to = 0;
};

#include "text/unicode_additions.inc"

constexpr char32_t kCodePoints = 0x110000;

bool contains(std::span<const CodePointRange> ranges, char32_t code_point) {
  const auto after = std::upper_bound(
      ranges.begin(), ranges.end(), code_point,
      [](char32_t value, const CodePointRange& range) { return value < range.first; });
  return after != ranges.begin() && code_point <= std::prev(after)->last;
}

enum ClassBit : uint8_t { kLetter = 1, kNumber = 2, kPunctuation = 4, kWord = 8, kSpace = 16 };

uint8_t bits_of_category(utf8proc_category_t category) {
  switch (category) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return kLetter | kWord;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
      return kNumber | kWord;
    case UTF8PROC_CATEGORY_NO:
      return kNumber;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return kWord;
    case UTF8PROC_CATEGORY_PC:
      return kPunctuation | kWord;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return kPunctuation;
    default:
      return 0;
  }
}

// Alphabetic symbols (Other_Alphabetic in So) and the join controls.
constexpr CodePointRange kOtherWord[] = {
    {0x200C, 0x200D}, {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
constexpr CodePointRange kWhiteSpace[] = {
    {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
constexpr std::string_view kAsciiSymbols = "$+<=>^`|~";

/// One byte of class bits a character, in pages of 256 that equal pages share.
class ClassTable {
 public:
  ClassTable() : index_(kCodePoints / kPage) {
    std::vector<uint8_t> bits(kCodePoints);
    for (char32_t c = 0; c < kCodePoints; ++c) {
      bits[c] = bits_of_category(utf8proc_category(static_cast<utf8proc_int32_t>(c)));
    }
    const auto add = [&](std::span<const CodePointRange> ranges, uint8_t mask) {
      for (const CodePointRange& range : ranges) {
        for (char32_t c = range.first; c <= range.last; ++c) bits[c] |= mask;
      }
    };
    add(kAdditionsL, kLetter | kWord);
    add(kAdditionsN, kNumber);
    add(kAdditionsNd, kWord);
    add(kAdditionsM, kWord);
    add(kOtherWord, kWord);
    add(kWhiteSpace, kSpace);
    add(kPunctuationExtra, kPunctuation);
    for (const char c : kAsciiSymbols) bits[static_cast<uint8_t>(c)] |= kPunctuation;
    for (char32_t c = 0; c < kCodePoints; ++c) {
      if (contains(kPunctuationMissing, c)) bits[c] &= static_cast<uint8_t>(~kPunctuation);
    }
    for (char32_t c = 0; c < kCodePoints; c += kPage) {
      const auto page = bits.begin() + c;
      size_t known = 0;
      while (known < pages_.size() &&
             !std::equal(page, page + kPage, pages_.begin() + static_cast<ptrdiff_t>(known))) {
        known += kPage;
      }
      if (known == pages_.size()) pages_.insert(pages_.end(), page, page + kPage);
      index_[c / kPage] = static_cast<uint32_t>(known);
    }
  }

  uint8_t operator[](char32_t c) const { return pages_[index_[c / kPage] + c % kPage]; }

 private:
  static constexpr size_t kPage = 256;
  std::vector<uint32_t> index_;  // offset of each page in pages_
  std::vector<uint8_t> pages_;
};

bool has(char32_t code_point, uint8_t mask) {
  static const ClassTable table;
  return (table[code_point] & mask) != 0;
}

}  // namespace

std::span<const CodePointRange> unicode_additions(std::string_view name) {
  if (name == "L") return kAdditionsL;
  if (name == "Lu") return kAdditionsLu;
  if (name == "Ll") return kAdditionsLl;
  if (name == "Lm") return kAdditionsLm;
  if (name == "Lo") return kAdditionsLo;
  if (name == "N") return kAdditionsN;
  if (name == "Nd") return kAdditionsNd;
  if (name == "M") return kAdditionsM;
  if (name == "P") return kAdditionsP;
  if (name == "S") return kAdditionsS;
  if (name == "Han") return kAdditionsHan;
  return {};
}

bool is_white_space(char32_t code_point) { return has(code_point, kSpace); }
bool is_letter(char32_t code_point) { return has(code_point, kLetter); }
bool is_number(char32_t code_point) { return has(code_point, kNumber); }
bool is_numeric(char32_t code_point) {
  return has(code_point, kNumber) || contains(kNumericAdditions, code_point);
}
bool is_punctuation(char32_t code_point) { return has(code_point, kPunctuation); }
bool is_word_character(char32_t code_point) { return has(code_point, kWord); }

bool is_normalizing(char32_t code_point) { return contains(kNormalizing, code_point); }

char32_t lower_case(char32_t code_point) {
  const auto added =
      std::lower_bound(std::begin(kLowerCaseAdditions), std::end(kLowerCaseAdditions), code_point,
                       [](const LowerCase& entry, char32_t value) { return entry.from < value; });
  if (added != std::end(kLowerCaseAdditions) && added->from == code_point) return added->to;
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point)));
}

}  // namespace d2q
