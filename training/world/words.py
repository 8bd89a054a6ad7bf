"""The word lists of the synthetic bank: interests, cities and sentences, each in Chinese and English.

An area is a broad interest with five topics. Invented merchants and fund houses only: no real brand is named.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Words(NamedTuple):
    """One text in both languages."""

    zh: str
    en: str


class Area(NamedTuple):
    """A broad interest: the age and the wealth (0 to 1) it is typical of, its busy hour, its topics."""

    code: str
    name: Words
    age: float
    wealth: float
    hour: float
    topics: tuple[tuple[str, str, str], ...]  # (code, Chinese, English)


AREAS: Final = (
    Area(
        "everyday", Words("日常", "everyday money"), 40, 0.4, 10,
        (("transfer", "转账", "transfers"), ("bills", "生活缴费", "utility bills"),
         ("account", "账户管理", "account care"), ("topup", "话费充值", "mobile top-up"),
         ("cards", "银行卡", "bank cards")),
    ),
    Area(
        "saving", Words("储蓄", "saving"), 52, 0.5, 9,
        (("deposit", "定期存款", "time deposits"), ("certificate", "大额存单", "certificates of deposit"),
         ("cash", "现金理财", "cash management"), ("goals", "目标储蓄", "savings goals"),
         ("exchange", "外汇", "foreign exchange")),
    ),
    Area(
        "investing", Words("投资", "investing"), 38, 0.75, 10,
        (("index", "指数基金", "index funds"), ("equity", "股票基金", "equity funds"),
         ("bond", "债券基金", "bond funds"), ("gold", "黄金", "gold"),
         ("wealth", "稳健理财", "wealth management")),
    ),
    Area(
        "protection", Words("保障", "protection"), 42, 0.55, 20,
        (("health", "医疗险", "health insurance"), ("accident", "意外险", "accident insurance"),
         ("life", "寿险", "life insurance"), ("motor", "车险", "motor insurance"),
         ("household", "家财险", "home insurance")),
    ),
    Area(
        "borrowing", Words("贷款", "borrowing"), 33, 0.35, 12,
        (("consumer", "消费贷", "consumer loans"), ("mortgage", "房贷", "mortgages"),
         ("smallbiz", "经营贷", "business loans"), ("carloan", "车贷", "car loans"),
         ("instalment", "账单分期", "card instalments")),
    ),
    Area(
        "retirement", Words("养老", "retirement"), 60, 0.55, 9,
        (("pension", "个人养老金", "personal pensions"), ("annuity", "年金", "annuities"),
         ("care", "康养服务", "senior care"), ("checkup", "健康体检", "health check-ups"),
         ("college", "老年大学", "senior college")),
    ),
    Area(
        "travel", Words("出行旅游", "travel"), 34, 0.65, 21,
        (("flights", "机票", "flights"), ("hotels", "酒店", "hotels"), ("rail", "高铁", "high-speed rail"),
         ("scenic", "景区", "scenic spots"), ("visas", "签证", "visas")),
    ),
    Area(
        "dining", Words("美食", "dining"), 29, 0.4, 12,
        (("coffee", "咖啡", "coffee"), ("hotpot", "火锅", "hot pot"), ("bakery", "烘焙", "bakery"),
         ("takeaway", "外卖", "takeaway"), ("tea", "奶茶", "milk tea")),
    ),
    Area(
        "shopping", Words("购物", "shopping"), 32, 0.45, 21,
        (("supermarket", "超市", "supermarket"), ("fashion", "服饰", "fashion"),
         ("electronics", "数码", "electronics"), ("beauty", "美妆", "beauty"),
         ("fresh", "生鲜", "fresh groceries")),
    ),
    Area(
        "driving", Words("车生活", "driving"), 37, 0.55, 8,
        (("fuel", "加油", "fuel"), ("charging", "充电", "EV charging"), ("parking", "停车", "parking"),
         ("metro", "公交地铁", "metro and bus"), ("carcare", "洗车保养", "car care")),
    ),
    Area(
        "family", Words("亲子教育", "family"), 36, 0.5, 20,
        (("tuition", "学费", "tuition"), ("books", "童书", "children's books"), ("toys", "玩具", "toys"),
         ("maternity", "母婴", "mother and baby"), ("camp", "研学营", "study camps")),
    ),
    Area(
        "health", Words("运动健康", "sport and health"), 35, 0.5, 19,
        (("gym", "健身", "gym"), ("running", "跑步", "running"), ("swimming", "游泳", "swimming"),
         ("pharmacy", "药房", "pharmacy"), ("dental", "口腔", "dental care")),
    ),
    Area(
        "culture", Words("文化娱乐", "culture"), 27, 0.4, 20,
        (("cinema", "电影", "cinema"), ("concerts", "演唱会", "concerts"), ("museums", "博物馆", "museums"),
         ("reading", "阅读", "reading"), ("games", "游戏", "games")),
    ),
    Area(
        "home", Words("家居", "home"), 39, 0.55, 19,
        (("furniture", "家具", "furniture"), ("appliances", "家电", "appliances"),
         ("renovation", "装修", "renovation"), ("property", "物业", "property services"),
         ("cleaning", "家政", "housekeeping")),
    ),
    Area(
        "business", Words("小微经营", "small business"), 41, 0.6, 14,
        (("payroll", "代发工资", "payroll"), ("invoices", "发票", "invoices"),
         ("merchant", "收款码", "merchant collection"), ("tax", "税务", "taxes"),
         ("supply", "供应链", "supply chain")),
    ),
    Area(
        "civic", Words("政务民生", "public services"), 45, 0.4, 10,
        (("social", "社保", "social insurance"), ("housing", "公积金", "housing fund"),
         ("hospital", "医院挂号", "hospital registration"), ("fines", "交通违章", "traffic fines"),
         ("charity", "公益", "charity")),
    ),
)  # fmt: skip

AREA_CODES: Final = tuple(area.code for area in AREAS)
LIFESTYLE: Final = ("travel", "dining", "shopping", "driving", "family", "health", "culture", "home")

CITIES: Final = (  # code, Chinese, English, tier, latitude, longitude, share
    ("310000", "上海", "Shanghai", 1, 31.23, 121.47, 11.0),
    ("110000", "北京", "Beijing", 1, 39.90, 116.40, 10.0),
    ("440100", "广州", "Guangzhou", 1, 23.13, 113.26, 8.0),
    ("440300", "深圳", "Shenzhen", 1, 22.54, 114.06, 8.0),
    ("330100", "杭州", "Hangzhou", 2, 30.27, 120.15, 6.0),
    ("320100", "南京", "Nanjing", 2, 32.06, 118.80, 5.0),
    ("320500", "苏州", "Suzhou", 2, 31.30, 120.58, 5.0),
    ("510100", "成都", "Chengdu", 2, 30.57, 104.07, 6.0),
    ("500000", "重庆", "Chongqing", 2, 29.56, 106.55, 5.0),
    ("420100", "武汉", "Wuhan", 2, 30.59, 114.31, 5.0),
    ("610100", "西安", "Xi'an", 2, 34.34, 108.94, 4.0),
    ("120000", "天津", "Tianjin", 2, 39.08, 117.20, 4.0),
    ("370200", "青岛", "Qingdao", 2, 36.07, 120.38, 3.0),
    ("430100", "长沙", "Changsha", 2, 28.23, 112.94, 3.0),
    ("350200", "厦门", "Xiamen", 3, 24.48, 118.09, 3.0),
    ("340100", "合肥", "Hefei", 3, 31.82, 117.23, 3.0),
    ("530100", "昆明", "Kunming", 3, 25.04, 102.71, 2.5),
    ("210200", "大连", "Dalian", 3, 38.91, 121.61, 2.5),
    ("450100", "南宁", "Nanning", 3, 22.82, 108.37, 2.0),
    ("620100", "兰州", "Lanzhou", 3, 36.06, 103.83, 1.5),
    ("650100", "乌鲁木齐", "Urumqi", 3, 43.83, 87.62, 1.5),
    ("460100", "海口", "Haikou", 3, 20.04, 110.32, 1.0),
)

MERCHANTS: Final = tuple(
    Words(*pair.split("/"))
    for pair in [
        "云雀/Skylark",
        "青禾/Greenleaf",
        "南山/Southhill",
        "木槿/Hibiscus",
        "晨光/Daybreak",
        "白鹭/Egret",
        "星河/Starriver",
        "松果/Pinecone",
        "海棠/Begonia",
        "月牙/Crescent",
        "蓝鲸/Bluewhale",
        "红枫/Redmaple",
        "小满/Xiaoman",
        "竹里/Bamboo",
        "北辰/Polaris",
        "鹿鸣/Deercall",
        "知夏/Zhixia",
        "麦田/Wheatfield",
        "橘子/Tangerine",
        "长风/Longwind",
        "溪山/Brookhill",
        "半岛/Peninsula",
        "石榴/Pomegranate",
        "飞燕/Swallow",
        "银杏/Ginkgo",
        "沐光/Sunbath",
        "远帆/Farsail",
        "暖阳/Warmsun",
        "碧落/Azure",
        "万象/Myriad",
    ]
)

CONTENT: Final = tuple(
    Words(*pair.split("|"))
    for pair in (
        "{}入门：先弄懂五件事|{} for beginners: five things first",
        "{}避坑指南|{}: mistakes to avoid",
        "一图看懂{}|{} in one picture",
        "{}怎么选更划算|{}: how to get better value",
        "关于{}的十个问答|Ten questions about {}",
        "{}本月观察|{}: what changed this month",
        "老客户聊{}|Customers talk about {}",
        "{}新规解读|{}: the new rules explained",
        "三分钟了解{}|{} in three minutes",
        "{}年度盘点|{}: the year in review",
        "{}与家庭预算|{} and the family budget",
        "年轻人的{}清单|{}: a list for the young",
        "理财师谈{}|An adviser's view on {}",
        "{}省钱攻略|Saving money on {}",
        "{}风险提示|{}: know the risks",
        "周末聊{}|Weekend reading: {}",
        "{}数据小报|{} by the numbers",
        "{}实用工具合集|Useful tools for {}",
    )
)

ACTIVITIES: Final = tuple(
    Words(*pair.split("|"))
    for pair in (
        "{}嘉年华|{} carnival",
        "{}打卡赢积分|{} check-in for points",
        "{}抽奖日|{} prize draw",
        "{}拼团周|{} group week",
        "{}知识竞赛|{} quiz",
        "{}周三五折|{} half-price Wednesday",
        "{}邀请有礼|{}: invite a friend",
        "{}体验官招募|{} testers wanted",
        "{}达标礼|{} spend-and-earn",
        "{}新客见面礼|{} welcome gift",
        "{}挑战赛|{} challenge",
        "{}秒杀专场|{} flash sale",
    )
)

SERVICES: Final = tuple(
    Words(*pair.split("|"))
    for pair in (
        "{}预约|{} booking",
        "{}服务站|{} service point",
        "{}小程序|{} mini-program",
        "{}到家|{} at home",
        "{}导览|{} guide",
        "{}专区|{} corner",
    )
)

SERVICE_TOPICS: Final = (
    "retirement/care", "retirement/checkup", "retirement/college", "travel/hotels", "travel/scenic",
    "travel/visas", "dining/coffee", "dining/hotpot", "dining/takeaway", "shopping/supermarket",
    "shopping/fresh", "driving/fuel", "driving/charging", "driving/parking", "driving/metro",
    "driving/carcare", "family/camp", "family/maternity", "health/gym", "health/swimming",
    "health/pharmacy", "health/dental", "culture/cinema", "culture/museums", "culture/concerts",
    "home/property", "home/cleaning", "home/renovation", "civic/social", "civic/housing",
    "civic/hospital", "civic/fines", "business/tax", "business/merchant",
)  # fmt: skip
